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
from torch import Tensor

from ma_agiqa.training.recipe import Recipe
from ma_agiqa.transforms import to_unit

PAPER_SHARE = 0.7
PAPER_TURNS = (0.33, 0.33, 0.34)  # of one, two and three quarter turns


def views(
    images: Sequence[Tensor], recipe: Recipe, *, epoch: int, rng: np.random.Generator
) -> Tensor:
    """Return one view of each uint8 (3, H, W) image as float (B, 3, S, S) in [0, 1]."""
    if recipe.views == "crops":
        return random_crops(images, side=recipe.crop_in(epoch), turn=recipe.turn, rng=rng)
    if recipe.views == "mirror":
        mirrored = rng.random(len(images)) < recipe.turn
        chosen = [i.flip(2) if m else i for i, m in zip(images, mirrored, strict=True)]
    else:
        chosen = [paper_view(image, rng=rng) for image in images]
    return to_unit(torch.stack(chosen))


def paper_view(image: Tensor, *, rng: np.random.Generator) -> Tensor:
    """Turn a square (3, S, S) image as the official training does."""
    if rng.random() < PAPER_SHARE:
        image = image.rot90(int(rng.choice((1, 2, 3), p=PAPER_TURNS)), (1, 2))
    return image.flip(1) if rng.random() < PAPER_SHARE else image


def random_crops(
    images: Sequence[Tensor], *, side: int, turn: float, rng: np.random.Generator
) -> Tensor:
    """Return one crop of each uint8 (3, H, W) image as float (B, 3, S, S) in [0, 1].

    An image smaller than the crop is continued by reflection, which adds no new texture.
    """
    where = rng.random((len(images), 3)).tolist()
    crops = []
    for image, (down, right, mirror) in zip(images, where, strict=True):
        image = _at_least(image, side)
        top = int(down * (image.shape[1] - side + 1))
        left = int(right * (image.shape[2] - side + 1))
        crop = image[:, top : top + side, left : left + side]
        crops.append(crop.flip(2) if mirror < turn else crop)
    return to_unit(torch.stack(crops))


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
