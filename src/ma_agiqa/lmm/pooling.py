"""Which positions of a language model's states are averaged into one vector.

    all     every position, as the paper does
    image   those the image stands at
    text    the others: question and template
    last    the last one alone, from which a model would go on to write

Padding counts nowhere.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ma_agiqa.errors import UsageError

POOLS = ("all", "image", "text", "last")


def check_pool(pool: str) -> None:
    """Raise UsageError unless `pool` is one of `POOLS`."""
    if pool not in POOLS:
        raise UsageError(f"unknown pool {pool!r}: use one of {', '.join(POOLS)}")


def positions(pool: str, *, present_BL: Tensor, image_BL: Tensor) -> Tensor:
    """Return the positions that count, (B, L) bool.

    Args:
        present_BL: false where a sequence is padded.
        image_BL: true where the image stands.

    Raises:
        UsageError: an unknown pool, or a sequence without any such position.
    """
    check_pool(pool)
    if pool == "last":
        steps_L = torch.arange(present_BL.shape[1], device=present_BL.device)
        last_B = torch.where(present_BL, steps_L, -1).amax(dim=1)
        chosen = steps_L == last_B[:, None]
    elif pool == "image":
        chosen = present_BL & image_BL
    elif pool == "text":
        chosen = present_BL & ~image_BL
    else:
        chosen = present_BL
    if not bool(chosen.any(dim=1).all()):
        raise UsageError(f"pool {pool!r} finds no position to average in this model's prompt")
    return chosen


def mean_over(states_BLD: Tensor, chosen_BL: Tensor) -> Tensor:
    """Return the mean of the chosen positions' states, (B, D), accumulated in float32."""
    weights_BL1 = chosen_BL[..., None].to(states_BLD.device)
    total_BD = torch.where(weights_BL1, states_BLD.float(), 0.0).sum(dim=1)
    return total_BD / weights_BL1.sum(dim=1)
