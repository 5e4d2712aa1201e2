"""Other views of a picture that people would score as they score the picture.

A human score belongs to what is shown, not to one raster of it: a part of the picture, the
picture at a smaller size, or a lightly compressed file of it deserve the same. Without such
views a fit learns the pixel grid of its training set: pictures reduced to half their size were
ranked at 0.55 instead of 0.83 (docs/LOG.md).

Cut and reduced sizes are drawn so that the shorter side keeps `SMALLEST` pixels, or stays as it
is where it has fewer.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ma_agiqa.training.recode import recoded

EDITION = 1
"""Grows whenever the views change: descriptions of them are kept under it."""

SMALLEST = 160
"""Pixels that the shorter side keeps."""

_CUT, _PART = 0.3, (0.6, 0.95)  # how often only a part is taken; share of each side
_WHOLE = 0.15  # how often the size stays
_REDUCED = 0.35  # of each side at the least
_JPEG, _WEBP = (0.3, 75, 98), (0.2, 80, 97)  # how often; qualities from, below
_FILTERS = (
    Image.Resampling.LANCZOS,
    Image.Resampling.BICUBIC,
    Image.Resampling.BILINEAR,
    Image.Resampling.BOX,
)


def alike(picture: Image.Image, *, rng: np.random.Generator) -> Image.Image:
    """Return a part of an RGB picture, at its size or a smaller one, lightly compressed or not."""
    view, chance = _resized(picture, rng=rng), rng.random()
    if chance < _JPEG[0]:
        return recoded(view, "JPEG", quality=int(rng.integers(*_JPEG[1:])))
    if chance < _JPEG[0] + _WEBP[0]:
        return recoded(view, "WEBP", quality=int(rng.integers(*_WEBP[1:])))
    return view


def _resized(picture: Image.Image, *, rng: np.random.Generator) -> Image.Image:
    """Return a part of an RGB picture, at its size or a smaller one."""
    if rng.random() < _CUT:
        picture = _part(picture, share=rng.uniform(*_PART), rng=rng)
    if rng.random() < _WHOLE:
        return picture
    share = math.exp(rng.uniform(math.log(_REDUCED), 0.0))
    width, height = _kept(picture, share)
    return picture.resize((width, height), _FILTERS[rng.integers(len(_FILTERS))])


def _part(picture: Image.Image, *, share: float, rng: np.random.Generator) -> Image.Image:
    width, height = _kept(picture, share)
    left = int(rng.integers(picture.width - width + 1))
    top = int(rng.integers(picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def _kept(picture: Image.Image, share: float) -> tuple[int, int]:
    """Return width and height at this share of each side, or at the least that is allowed."""
    share = min(1.0, max(share, SMALLEST / min(picture.size)))
    return round(picture.width * share), round(picture.height * share)
