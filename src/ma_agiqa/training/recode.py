"""A picture as it comes back from a lossy codec."""

from __future__ import annotations

import io

from PIL import Image


def recoded(picture: Image.Image, codec: str, **options: object) -> Image.Image:
    """Write an RGB picture with one of Pillow's codecs, and read it again."""
    file = io.BytesIO()
    picture.save(file, codec, **options)
    file.seek(0)
    return Image.open(file).convert("RGB")
