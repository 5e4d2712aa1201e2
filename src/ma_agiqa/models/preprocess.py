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

Each recipe is there twice: for a decoded image, and for a batch that carries a gradient, which
sees the same 8-bit values.

What this file does not do: decode files (`images.py`) or augment (`training/`).

Shapes: B images, H, W height and width in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
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


def prepare_with_gradient(unit: Tensor, preprocess: Preprocess) -> Tensor:
    """Return what `prepare` makes of images (B, 3, H, W) in [0, 1], as (B, 3, H', W').

    Values are rounded to the 256 levels of a file, before and after a change of size; the gradient
    is that of the values before rounding.

    Raises:
        ImageError: the images are smaller than the model can judge.
    """
    return from_unit(
        KINDS[preprocess.kind].fit_unit(_rounded(unit.float()), preprocess), preprocess
    )


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


def _rounded(unit: Tensor) -> Tensor:
    """Round to 8-bit levels, and pass the gradient on as if that were not done."""
    unit = unit.clamp(0, 1)
    return unit + ((unit * 255).round() / 255 - unit).detach()


def _native_size(height: int, width: int, preprocess: Preprocess) -> tuple[int, int]:
    """Return the height and width at which an image is judged."""
    if min(height, width) < preprocess.min_side:
        raise ImageError(
            f"{width}x{height} pixels is too small to judge",
            remedy=f"the shorter side must have at least {preprocess.min_side} pixels",
        )
    if height * width <= preprocess.max_pixels:
        return height, width
    ratio = math.sqrt(preprocess.max_pixels / (height * width))
    size = (math.floor(height * ratio), math.floor(width * ratio))
    if min(size) < preprocess.min_side:
        raise ImageError(
            f"{width}x{height} pixels is too elongated to judge: at the working area of "
            f"{preprocess.max_pixels} pixels its shorter side would have {min(size)}",
            remedy="crop it to the part of interest",
        )
    return size


def _native(rgb: RGB, preprocess: Preprocess) -> RGB:
    height, width = _native_size(rgb.shape[0], rgb.shape[1], preprocess)
    if (height, width) == rgb.shape[:2]:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS))


def _native_unit(unit: Tensor, preprocess: Preprocess) -> Tensor:
    """Do what Pillow's Lanczos filter does: rows first, rounded, then columns."""
    height, width = _native_size(unit.shape[2], unit.shape[3], preprocess)
    if width != unit.shape[3]:
        unit = _rounded(unit @ _lanczos(unit.shape[3], width).to(unit).T)
    if height != unit.shape[2]:
        unit = _rounded(_lanczos(unit.shape[2], height).to(unit) @ unit)
    return unit


def _lanczos(length: int, side: int) -> Tensor:
    """Return the weights that reduce `length` pixels to `side`, (side, length), float64."""
    step = length / side
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) * step
    distance = (torch.arange(length) + 0.5 - centres[:, None]) / step
    weights = torch.sinc(distance) * torch.sinc(distance / 3) * (distance.abs() < 3)
    return weights / weights.sum(1, keepdim=True)


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


def _stretch_unit(unit: Tensor, preprocess: Preprocess, *, antialias: bool) -> Tensor:
    """Stretch with torch's bicubic filters: OpenCV's, and antialiased Pillow's."""
    sizes = [(PAPER_SIDE, PAPER_SIDE)]
    if antialias:  # rows first, as in Pillow
        sizes.insert(0, (unit.shape[2], PAPER_SIDE))
    for size in sizes:
        unit = _rounded(F.interpolate(unit, size, mode="bicubic", antialias=antialias))
    return unit


class Kind(NamedTuple):
    """How an image gets its size, and whether its values are centred to [-1, 1].

    Attributes:
        fit: of a decoded image.
        fit_unit: of images (B, 3, H, W) in [0, 1], the same with a gradient.
    """

    fit: Callable[[RGB, Preprocess], RGB]
    fit_unit: Callable[[Tensor, Preprocess], Tensor]
    centred: bool


KINDS: dict[str, Kind] = {
    "native": Kind(_native, _native_unit, centred=False),
    "paper": Kind(_stretch_aliased, partial(_stretch_unit, antialias=False), centred=True),
    "paper-antialias": Kind(
        _stretch_antialiased, partial(_stretch_unit, antialias=True), centred=True
    ),
}
