"""Which device runs the network, and what its memory errors look like.

What this file does not do: move anything there, or change a global setting of torch.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ma_agiqa.errors import UsageError, first_line

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


def resolve(device: str) -> torch.device:
    """Return the torch device that `device` names; `auto` takes CUDA, then MPS, then CPU.

    Raises:
        UsageError: torch knows no such device, or the machine has none.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
        raise UsageError(
            f"device {device!r} cannot be used: {reason}", remedy="use auto or cpu"
        ) from error
    return chosen


def available_cores() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran short; torch has no one class for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        phrase in str(error).lower() for phrase in _OUT_OF_MEMORY
    )


def full_float32(device: torch.device) -> AbstractContextManager[Any]:
    """Keep CUDA convolutions in float32: TF32 would make a score depend on its batch."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=False, allow_tf32=False
    )
