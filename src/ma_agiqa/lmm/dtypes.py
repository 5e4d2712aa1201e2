"""What `--dtype` may name: the numbers an LMM computes in."""

from __future__ import annotations

import torch

from ma_agiqa.errors import UsageError

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def check_dtype(dtype: str) -> None:
    """Raise UsageError unless `dtype` is one of `DTYPES`."""
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}: use one of {', '.join(DTYPES)}")
