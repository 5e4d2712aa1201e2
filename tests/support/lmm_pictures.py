"""Pictures of several shapes, small enough for tiny multimodal models."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ma_agiqa.types import RGB

SIZES = [(64, 64), (64, 64), (96, 40), (40, 90), (64, 64)]


def pictures() -> list[RGB]:
    """Return five images of three shapes."""
    g = np.random.default_rng(0)
    small = [g.integers(0, 256, (5, 5, 3)).astype(np.uint8) for _ in SIZES]
    return [
        np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        for pixels, size in zip(small, SIZES, strict=True)
    ]
