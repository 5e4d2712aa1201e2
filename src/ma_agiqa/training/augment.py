"""What a network sees of a training image: views that leave quality as it is.

    crops    a random crop at the image's own resolution, mirrored left to right at times
    mirror   the whole image, mirrored left to right at times
    paper    the whole image as the official code turns it: by 90, 180 or 270 degrees with
             probability 0.7, then upside down with probability 0.7

Nothing is resized, recoloured or sharpened. All randomness comes from the generator given,
so an epoch repeats exactly from its seed.

Source of `paper`: official utils/process.py. Its "horizontal flip" applies numpy's fliplr to
an array of shape (C, H, W), which turns the picture upside down. Kept as it is.

Shapes: B images, H, W their size, S side of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ma_agiqa.training.recipe import Recipe
from ma_agiqa.transforms import to_unit

PAPER_SHARE = 0.7
PAPER_TURNS = (0.33, 0.33, 0.34)  # of one, two and three quarter turns


def views(
    images: Sequence[Tensor],
    recipe: Recipe,
    *,
    epoch: int,
    rng: np.random.Generator,
    rows: Sequence[int] | None = None,
    batch: int | None = None,
) -> Tensor:
    """Return one view of each uint8 (3, H, W) image as float (B, 3, S, S) in [0, 1].

    Args:
        rows: which rows of a batch of `batch` the images are; all of them when None. Chance is
            drawn for the whole batch, so that each of several processes sees its own rows of
            the same batch.
    """
    batch = len(images) if batch is None else batch
    rows = range(batch) if rows is None else rows
    if recipe.views == "crops":
        where = rng.random((batch, 3))[list(rows)]
        return crops(images, where, side=recipe.crop_in(epoch), turn=recipe.turn)
    if recipe.views == "mirror":
        mirrored = (rng.random(batch) < recipe.turn)[list(rows)]
        chosen = [i.flip(2) if m else i for i, m in zip(images, mirrored, strict=True)]
    else:
        turns = [paper_turn(rng) for _ in range(batch)]
        chosen = [turned(i, *turns[row]) for i, row in zip(images, rows, strict=True)]
    return to_unit(torch.stack(chosen))


def paper_view(image: Tensor, *, rng: np.random.Generator) -> Tensor:
    """Turn a square (3, S, S) image as the official training does."""
    return turned(image, *paper_turn(rng))


def paper_turn(rng: np.random.Generator) -> tuple[int, bool]:
    """Draw how many quarter turns the official training gives an image, and whether it flips."""
    quarters = 0
    if rng.random() < PAPER_SHARE:
        quarters = int(rng.choice((1, 2, 3), p=PAPER_TURNS))
    return quarters, bool(rng.random() < PAPER_SHARE)


def turned(image: Tensor, quarters: int, flip: bool) -> Tensor:
    """Turn a square (3, S, S) image by quarters, then upside down if asked."""
    image = image.rot90(quarters, (1, 2)) if quarters else image
    return image.flip(1) if flip else image


def crops(
    images: Sequence[Tensor], where: NDArray[np.float64], *, side: int, turn: float
) -> Tensor:
    """Return one crop of each uint8 (3, H, W) image as float (B, 3, S, S) in [0, 1].

    An image smaller than the crop is continued by reflection, which adds no new texture.

    Args:
        where: of each image three numbers in [0, 1): how far down, how far right, and mirrored
            left to right if below `turn`.
    """
    found = []
    for image, (down, right, mirror) in zip(images, where.tolist(), strict=True):
        image = _at_least(image, side)
        top = int(down * (image.shape[1] - side + 1))
        left = int(right * (image.shape[2] - side + 1))
        crop = image[:, top : top + side, left : left + side]
        found.append(crop.flip(2) if mirror < turn else crop)
    return to_unit(torch.stack(found))


def _at_least(image: Tensor, side: int) -> Tensor:
    while min(image.shape[1:]) < side:
        height, width = image.shape[1:]
        down, right = min(height - 1, max(0, side - height)), min(width - 1, max(0, side - width))
        image = F.pad(image[None].float(), (0, right, 0, down), mode="reflect")[0].to(image.dtype)
    return image


def mixture(batch: int, *, share: float, rng: np.random.Generator) -> tuple[float, Tensor]:
    """Draw a mixing factor in [0, 1] and partners; the factor is 1 when nothing is mixed."""
    chosen, factor, partners = rng.random(), rng.beta(0.4, 0.4), rng.permutation(batch)
    return (float(factor) if chosen < share else 1.0), torch.from_numpy(partners)
