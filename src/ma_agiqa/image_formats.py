"""Which image format some bytes are, and which decoder of Pillow reads it.

The content decides, never a file name. A format that is not read here is still recognised
where that helps, so that the error can name it: a HEIC photograph, or a web page saved as
`.jpg`. Not done here: decoding itself, and all judgement of the pixels (`images.py`).
"""

from __future__ import annotations

from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

# Pillow's own `Image.open` would issue its bomb warning before our limit is consulted, and
# silencing a warning is process-wide; calling the decoder of the format directly does neither.
DECODERS: dict[str, type[ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WebP": WebPImageFile,
    "AVIF": AvifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "GIF": GifImageFile,
}
FORMATS = ", ".join(DECODERS)

SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    # Not read; known only to be named in the error.
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"\0\0\1\0", "ICO"),
    (b"%PDF", "PDF"),
    (b"\x93NUMPY", "NumPy"),
    (b"PK\x03\x04", "ZIP"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML or SVG"),
    (b"<!DOCTYPE html", "HTML"),
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"version https://git-lfs", "Git LFS pointer"),
)


def format_of(data: bytes) -> str | None:
    """Name the format from its first bytes; None when unknown."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":  # a box: size, "ftyp", major brand, version, further brands
        end = min(int.from_bytes(data[:4], "big"), 1024)
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIC" if brands & {b"heic", b"heix", b"hevc", b"mif1"} else "video"
    return next((name for start, name in SIGNATURES if data.startswith(start)), None)
