"""RGB image -> network input tensor, by the named recipe that travels with the weights.

Kinds:
    native   The image's own resolution, values in [0, 1]. Nothing is stretched or cropped.
             A shorter side below `min_side` is refused: there is nothing to judge, and a
             score would be made up. An area above `max_pixels` is reduced, keeping the
             aspect ratio, with an antialiased Lanczos filter.

What this file does not do: decode files (`images.py`) or augment (`training/`).

Shapes: H, W height and width in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ma_agiqa.config import Preprocess
from ma_agiqa.errors import ImageError, ModelError
from ma_agiqa.types import RGB


def fit(rgb: RGB, preprocess: Preprocess) -> RGB:
    """Return the uint8 image at the size the network will see, shape (H', W', 3).

    Raises:
        ImageError: the image is smaller than the model can judge.
        ModelError: the preprocessing names an unknown kind.
    """
    if preprocess.kind not in KINDS:
        raise ModelError(f"unknown preprocessing {preprocess.kind!r}, known: {sorted(KINDS)}")
    return KINDS[preprocess.kind](rgb, preprocess)


def prepare(rgb: RGB, preprocess: Preprocess) -> Tensor:
    """Return the float32 input tensor of one image, shape (3, H', W'), values in [0, 1]."""
    return to_unit(to_chw(fit(rgb, preprocess)))


def to_chw(rgb: RGB) -> Tensor:
    """Return a uint8 tensor of shape (3, H, W) holding the image."""
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))


def to_unit(pixels: Tensor) -> Tensor:
    """Map uint8 pixel values to float32 in [0, 1]; any shape."""
    return pixels.float().div_(255.0)


def _native(rgb: RGB, preprocess: Preprocess) -> RGB:
    height, width = rgb.shape[:2]
    if min(height, width) < preprocess.min_side:
        raise ImageError(
            f"{width}x{height} pixels is too small to judge",
            remedy=f"the shorter side must have at least {preprocess.min_side} pixels",
        )
    if height * width <= preprocess.max_pixels:
        return rgb
    ratio = math.sqrt(preprocess.max_pixels / (height * width))
    size = (math.floor(width * ratio), math.floor(height * ratio))
    if min(size) < preprocess.min_side:
        raise ImageError(
            f"{width}x{height} pixels is too elongated to judge: at the working area of "
            f"{preprocess.max_pixels} pixels its shorter side would have {min(size)}",
            remedy="crop it to the part of interest",
        )
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS))


KINDS: dict[str, Callable[[RGB, Preprocess], RGB]] = {
    "native": _native,
}
