"""Which device runs the network, what its memory errors look like, and threads on a CPU.

This file moves nothing to a device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch

from ma_agiqa.errors import UsageError, first_line
from ma_agiqa.provenance import available_cores as available_cores

Piece = TypeVar("Piece")
Result = TypeVar("Result")

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
        raise UsageError(
            f"device {device!r} cannot be used: {first_line(error)}", remedy="use auto or cpu"
        ) from error
    return chosen


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


class SingleThreadPool:
    """A pool of threads in each of which torch uses one thread.

    A network of many small operations gains little from several threads on each operation, and
    loses much where decoding takes one of them away: the others wait for it at the end of every
    operation. Whole images side by side keep every core busy, and the result for one image does
    not depend on the number of cores.

    Args:
        count: most pieces worked on at once.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="ma-agiqa-single")
        all_there = threading.Barrier(count)

        def start(_: int) -> None:
            torch.get_num_threads()  # a thread takes its number when it first asks for it, for good
            all_there.wait()

        with _One.lock, one_thread():
            list(self._pool.map(start, range(count)))

    def map(self, work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> list[Result]:
        """Return the results of `work` on all pieces, in order.

        Raises:
            Exception: what `work` raised for the first piece that failed.
        """
        with one_thread():
            return list(self._pool.map(work, pieces))


class _One:
    """Who wants torch to use one thread, and how many it used before the first of them."""

    lock = threading.RLock()
    wanted, before = 0, 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch use one thread in threads that start now, and in this one, for a while."""
    with _One.lock:
        if not _One.wanted:
            _One.before = torch.get_num_threads()
        _One.wanted += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _One.lock:
            _One.wanted -= 1
            torch.set_num_threads(_One.before)
