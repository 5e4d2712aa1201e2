"""A semantic encoder without weights: hand-made statistics of the picture as its vector.

What an encoder that learned nothing is worth, and so the floor that an LMM's vectors must
beat on the same splits. It answers no question: every question gets the same vector, and by
itself it has one entry, `statistics`.

What this file does not do: the statistics (`natural_statistics.py`).

Shapes: B images, K questions, D = 101 statistics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ma_agiqa.errors import ImageError
from ma_agiqa.experts import natural_statistics as statistics
from ma_agiqa.lmm.encoder import Question, fingerprint_of
from ma_agiqa.types import RGB

NAME = "handcrafted"
WIDTH = 101
MAX_PIXELS = 1024 * 1024
"""Larger pictures are reduced to this area: statistics of pixels depend on their size."""

PARTS = {
    "family": NAME,
    "version": 1,
    "statistics": ["brisque", "gm_log", "colour", "sharpness"],
    "max_pixels": MAX_PIXELS,
}
QUESTION = Question(name="statistics", text="Statistics of the pixels; no question is asked.")


class HandcraftedEncoder:
    """Turn images into vectors of statistics; see `SemanticEncoder`."""

    identity = PARTS
    width = WIDTH

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of `identity`."""
        return fingerprint_of(self.identity)

    def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
        """Return (B, K, D), float32; equal for every question.

        Raises:
            ImageError: an image with a side below 16 pixels.
        """
        vectors = torch.from_numpy(np.stack([describe(image) for image in images]))
        return vectors[:, None].repeat(1, len(questions), 1)


def describe(rgb: RGB) -> np.ndarray:
    """Return the statistics of one image, (D,), float32, finite.

    Raises:
        ImageError: a side below 16 pixels.
    """
    rgb = _reduced(rgb)
    if min(rgb.shape[:2]) < statistics.MIN_SIDE:
        height, width = rgb.shape[:2]
        raise ImageError(
            f"{width}x{height} pixels are too few for statistics, each side needs "
            f"{statistics.MIN_SIDE}"
        )
    grey = statistics.luminance(rgb)
    features = [
        *statistics.brisque(grey),
        *statistics.gm_log(grey),
        *statistics.colour(rgb, grey),
        *statistics.sharpness(grey),
    ]
    return np.array(features, dtype=np.float32)


def _reduced(rgb: RGB) -> RGB:
    height, width = rgb.shape[:2]
    if height * width <= MAX_PIXELS:
        return rgb
    factor = (MAX_PIXELS / (height * width)) ** 0.5
    size = max(1, int(width * factor)), max(1, int(height * factor))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
