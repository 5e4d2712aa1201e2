"""A picture between tensors and files: what Pillow's codecs leave of it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from torch import Tensor

from ma_agiqa.transforms import to_chw, to_unit


def recoded(picture: Image.Image, codec: str, **options: object) -> Image.Image:
    """Write an RGB picture with one of Pillow's codecs, and read it again."""
    file = io.BytesIO()
    picture.save(file, codec, **options)
    file.seek(0)
    return Image.open(file).convert("RGB")


def picture_of(pixels: Tensor) -> Image.Image:
    """Return a uint8 tensor of shape (3, H, W) as an RGB picture."""
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def tensor_of(picture: Image.Image) -> Tensor:
    """Return an RGB picture as a tensor of shape (3, H, W) in [0, 1]."""
    return to_unit(to_chw(np.asarray(picture)))
