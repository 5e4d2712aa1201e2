"""RGB image -> network input tensor, by the named recipe that travels with the weights.

Kinds:
    native   The image's own resolution, values in [0, 1]. Nothing is stretched or cropped.
             A shorter side below `min_side` is refused: there is nothing to judge, and a
             score would be made up. An area above `max_pixels` is reduced, keeping the
             aspect ratio, with an antialiased Lanczos filter.
    paper    Stretched to 224 x 224 whatever the aspect ratio, values in [-1, 1]. OpenCV's
             bicubic without antialiasing, as the official data/AIGC_general.py does it: the
             published weights have seen its aliasing.
    paper-antialias
             The same with Pillow's antialiased bicubic; other pixels, so other scores.

What this file does not do: decode files (`images.py`) or augment (`training/`).

Shapes: H, W height and width in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ma_agiqa.config import Preprocess
from ma_agiqa.errors import ImageError, MissingExtraError, ModelError
from ma_agiqa.types import RGB

PAPER_SIDE = 224
"""Pixels: side of the square that the paper's network sees."""


def fit(rgb: RGB, preprocess: Preprocess) -> RGB:
    """Return the uint8 image at the size the network will see, shape (H', W', 3).

    Raises:
        ImageError: the image is smaller than the model can judge.
        ModelError: the preprocessing names an unknown kind.
    """
    if preprocess.kind not in KINDS:
        raise ModelError(f"unknown preprocessing {preprocess.kind!r}, known: {sorted(KINDS)}")
    return KINDS[preprocess.kind].fit(rgb, preprocess)


def prepare(rgb: RGB, preprocess: Preprocess) -> Tensor:
    """Return the float32 input tensor of one image, shape (3, H', W')."""
    return to_input(to_chw(fit(rgb, preprocess)), preprocess)


def to_input(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Map uint8 pixel values to the float32 range the network expects; any shape."""
    return from_unit(to_unit(pixels), preprocess)


def from_unit(unit: Tensor, preprocess: Preprocess) -> Tensor:
    """Map values in [0, 1] to the range the network expects; may write into `unit`."""
    return unit.sub_(0.5).div_(0.5) if KINDS[preprocess.kind].centred else unit


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


def _stretch_aliased(rgb: RGB, preprocess: Preprocess) -> RGB:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("opencv-python-headless", "paper") from error
    stretched = cv2.resize(rgb, (PAPER_SIDE, PAPER_SIDE), interpolation=cv2.INTER_CUBIC)
    return np.asarray(stretched)


def _stretch_antialiased(rgb: RGB, preprocess: Preprocess) -> RGB:
    size = (PAPER_SIDE, PAPER_SIDE)
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


class Kind(NamedTuple):
    """How an image gets its size, and whether its values are centred to [-1, 1]."""

    fit: Callable[[RGB, Preprocess], RGB]
    centred: bool


KINDS: dict[str, Kind] = {
    "native": Kind(_native, centred=False),
    "paper": Kind(_stretch_aliased, centred=True),
    "paper-antialias": Kind(_stretch_antialiased, centred=True),
}
