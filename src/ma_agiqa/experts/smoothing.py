"""The mean around each pixel, for local normalisation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

BOX = 7
"""Pixels, side of the box; the sums below are made for this side."""


def box_mean(x: Tensor) -> Tensor:
    """Mean over the box around each pixel of (B, C, H, W); the image is continued by reflection.

    Sums of 2, then 7 shifted copies: four additions an axis instead of six, the later ones in
    place, and several times faster than a pooling or a convolution with a box of ones.
    """
    reach = BOX // 2
    x = F.pad(x, (reach, reach, reach, reach), mode="reflect")
    for axis in (2, 3):
        length = x.shape[axis]
        two = x.narrow(axis, 0, length - 1) + x.narrow(axis, 1, length - 1)
        last = length - BOX + 1
        seven = two.narrow(axis, 0, last) + two.narrow(axis, 2, last)
        seven += two.narrow(axis, 4, last)
        seven += x.narrow(axis, 6, last)
        x = seven
    return x / BOX**2
