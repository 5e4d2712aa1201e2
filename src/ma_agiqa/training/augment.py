"""Crops and mixtures that leave quality as it is.

Only what people would not see as a change of quality: a crop at the image's own resolution,
a mirror image. Nothing is resized, recoloured or sharpened. All randomness comes from the
generator given, so an epoch repeats exactly from its seed.

Shapes: B images, S side of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.transforms import to_unit


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
