"""Images in: a path, bytes, PIL image, array or tensor becomes one upright, opaque RGB array.

Reading a file has two steps, so that its bytes are read once and can be hashed as well:
`read_bytes` (path -> bytes) and `decode` (bytes -> RGB). `read_image` takes any source.

What becomes of the unusual kinds:
    rotated by EXIF       turned upright; damaged EXIF is ignored
    alpha, transparency   composited over white
    grey, 1-bit           the value in all three channels
    16-bit grey           value / 257, rounded
    16-bit colour         the high byte (Pillow reads no more), at most one step below rounding
    palette, CMYK, YCbCr  as Pillow converts them
    animated, many pages  the first frame
    colour profile        converted to sRGB, as a browser shows it, unless told otherwise; one that
                          is damaged, or of another kind of pixels, is ignored
    float, 32-bit, LAB    refused: what white is, or how to show it, is not in the file

The format is found from the content, never from the file name. A format that is not read is
recognised where that helps, so that the error can name it: a HEIC photograph, or a web page saved
as `.jpg`. PNG gamma is not applied. JPEG data about which its decoder complains is refused: the
decoder would fill in what it cannot make out.
Limits are checked on the header, before memory is spent. No setting of Pillow is changed, and
one is relied on: a program that sets its LOAD_TRUNCATED_IMAGES gets truncated images as well.
Not done here: resizing, and refusing images too small for a model (`models/preprocess.py`).

Shapes: H, W image height and width in pixels.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, features
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ma_agiqa.errors import ImageError, first_line
from ma_agiqa.types import RGB

if TYPE_CHECKING:
    import torch

Source: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | torch.Tensor"


class Format(NamedTuple):
    """A file format that is read.

    Attributes:
        decoder: Pillow's. `Image.open` would check the size against Pillow's own limit, which is
            below ours, and would warn before we can refuse; the decoder itself does neither.
        suffixes: lower case, of files taken as such when a folder is walked.
        starts: first bytes; none where `format_of` looks closer.
    """

    decoder: type[ImageFile]
    suffixes: tuple[str, ...]
    starts: tuple[bytes, ...]


FORMATS = {
    "PNG": Format(PngImageFile, (".png", ".apng"), (b"\x89PNG\r\n\x1a\n",)),
    "JPEG": Format(JpegImageFile, (".jpg", ".jpeg", ".jpe", ".jfif"), (b"\xff\xd8\xff",)),
    "WebP": Format(WebPImageFile, (".webp",), ()),
    "AVIF": Format(AvifImageFile, (".avif",), ()),
    "BMP": Format(BmpImageFile, (".bmp", ".dib"), (b"BM",)),
    "TIFF": Format(TiffImageFile, (".tif", ".tiff"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    "GIF": Format(GifImageFile, (".gif",), (b"GIF87a", b"GIF89a")),
}
"""Every format that is read, and nothing else that Pillow could read."""

NOT_READ = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"\0\0\1\0": "ICO",
    b"%PDF": "PDF",
    b"\x93NUMPY": "NumPy",
    b"PK\x03\x04": "ZIP",
    b"<svg": "SVG",
    b"<?xml": "XML or SVG",
    b"<!DOCTYPE html": "HTML",
    b"<!doctype html": "HTML",
    b"<html": "HTML",
    b"version https://git-lfs": "Git LFS pointer",
}
"""First bytes of formats that are recognised only to be named in an error."""

STARTS = {start: name for name, kind in FORMATS.items() for start in kind.starts} | NOT_READ

IMAGE_SUFFIXES = frozenset(suffix for kind in FORMATS.values() for suffix in kind.suffixes)
"""Suffixes, lower case, of files taken as images when a folder is walked."""

CONVERT = f"convert it to one of {', '.join(FORMATS)}"

STRIP_PIXELS = 2**22  # converted at a time, so that a large image is not held four times


@dataclass(frozen=True)
class Limits:
    """What is refused before it is decoded.

    Attributes:
        max_bytes: largest file, 256 MiB unless told.
        max_pixels: largest width times height, 120 megapixels unless told; decoding holds
            about 8 bytes per pixel, 0.9 GiB at that size, and 3 more while it is turned.
    """

    max_bytes: int = 256 * 2**20
    max_pixels: int = 120_000_000

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.max_pixels < 1:
            raise ValueError(f"limits must be positive, got {self}")


DEFAULT_LIMITS = Limits()


def is_image_path(path: str | os.PathLike[str]) -> bool:
    """Say whether a file met in a folder is a candidate, from its name alone.

    Names that start with a dot are not: they are hidden, or the `._` shadows of macOS.
    """
    path = Path(path)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def label(source: Source, index: int) -> str:
    """Return what results call the image: its path, or `image[3]` for one given as data."""
    if isinstance(source, str | os.PathLike):
        try:
            return os.fsdecode(source)
        except Exception:  # of a path object of somebody's own; reading it fails and says so
            pass
    return f"image[{index}]"


def read_image(
    source: Source, *, limits: Limits = DEFAULT_LIMITS, colour_profile: bool = True
) -> RGB:
    """Return an image of any kind as contiguous uint8 RGB of shape (H, W, 3).

    Args:
        source: a path; the bytes of a file; a PIL image; an array of uint8, shape (H, W, 3),
            (H, W, 4) with alpha, or (H, W) grey; or a torch tensor, shape (3, H, W) or
            (1, 3, H, W), of uint8 or of floats from 0 to 1. The result may share memory with
            an array or tensor.
        colour_profile: convert to sRGB by the profile that the image carries; else values stay as
            stored.

    Raises:
        ImageError: the source cannot be read as an image, or is over a limit.
    """
    if isinstance(source, str | os.PathLike):
        try:
            name = os.fsdecode(source)
        except Exception as error:  # of a path object of somebody's own
            raise ImageError(
                f"a {type(source).__name__} that gives no path: {first_line(error)}",
                remedy="give a path as text",
            ) from error
        data = read_bytes(name, limits=limits)
        return decode(data, name=name, limits=limits, colour_profile=colour_profile)
    if isinstance(source, bytes | bytearray | memoryview):
        return decode(bytes(source), limits=limits, colour_profile=colour_profile)
    if isinstance(source, Image.Image):
        return _from_pil(source, name="PIL image", limits=limits, colour_profile=colour_profile)
    if isinstance(source, np.ndarray):
        return _from_array(source, name="array", limits=limits)
    if type(source).__module__.partition(".")[0] == "torch" and hasattr(source, "detach"):
        return _from_tensor(source, limits=limits)
    raise ImageError(
        f"a {type(source).__name__} is not an image",
        remedy="give a path, bytes, a PIL image, a numpy array or a torch tensor",
    )


def read_bytes(path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return the content of an image file, having checked its size first.

    Raises:
        ImageError: missing, vanished, a folder, not a regular file, unreadable, empty, over
            `limits.max_bytes`, or changed while being read.
    """
    name = os.fspath(path)
    try:
        info = os.stat(name)
        if stat.S_ISDIR(info.st_mode):
            raise ImageError("is a folder, not an image", path=name, remedy="give its files")
        if not stat.S_ISREG(info.st_mode):  # opening a pipe could wait for ever
            raise ImageError(
                "is a pipe or device, not a file", path=name, remedy="save it to a file first"
            )
        _check_bytes(info.st_size, name=name, limits=limits)
        with open(name, "rb") as file:
            data = file.read(info.st_size + 1)
    except FileNotFoundError as error:
        raise ImageError(
            "no such file", path=name, remedy="check the path; it may have been moved or deleted"
        ) from error
    except PermissionError as error:
        raise ImageError(
            "permission denied", path=name, remedy="make the file readable for this user"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot be read: {reason}", path=name, remedy="check the path") from error
    if len(data) != info.st_size:
        raise ImageError(
            f"changed while being read: {info.st_size:,} bytes became {len(data):,} or more",
            path=name,
            remedy="score it again once it is completely written",
        )
    return data


def decode(
    data: bytes,
    *,
    name: str = "image given as bytes",
    limits: Limits = DEFAULT_LIMITS,
    colour_profile: bool = True,
) -> RGB:
    """Return the encoded image `data` as contiguous uint8 RGB of shape (H, W, 3).

    Args:
        name: what errors call the image, usually its path.
        colour_profile: as `read_image` takes it.

    Raises:
        ImageError: not an image, of a format not read here, damaged, or over a limit.
    """
    _check_bytes(len(data), name=name, limits=limits)
    kind = format_of(data)
    if kind is None:
        raise ImageError("is not an image", path=name, remedy=CONVERT)
    if kind not in FORMATS:
        raise ImageError(f"holds {kind} data, a format that is not read", path=name, remedy=CONVERT)
    try:
        image = FORMATS[kind].decoder(BytesIO(data))
    except Exception as error:  # see _damaged
        raise _damaged(error, name=name, kind=kind) from error
    rgb = _from_pil(image, name=name, limits=limits, colour_profile=colour_profile)
    complain = _COMPLAINTS.get(kind)
    if complain is not None and (complaint := complain(data)):
        raise _damaged(ValueError(complaint), name=name, kind=kind)
    return rgb


def _of_jpeg(jpeg: bytes) -> str | None:
    """Return what libjpeg says of data in which bytes are missing or changed, if it does.

    Pillow does not pass it on. All data are looked at, for pixels an eighth of the size.
    """
    small = {"min_height": 1, "min_width": 1, "min_factor": 8, "fastdct": True}
    try:
        simplejpeg.decode_jpeg(jpeg, "GRAY", **small)
    except ValueError as error:
        complaint = str(error)
        # Other messages are of what this second decoder cannot do, such as four colours; and
        # bytes left over before the end of the image (d9) are no loss: some cameras write them.
        if complaint.startswith("Corrupt JPEG data") and not complaint.endswith("marker 0xd9"):
            return complaint.partition(": ")[2]
    return None


def _of_webp(webp: bytes) -> str | None:
    """Say whether a decoded WebP image comes out without the last of its bytes too.

    Its data have no checksum, but those of a sound image end where it is complete. Behind a changed
    bit the decoder reads something else: more than there is, which it says, or less.
    """
    start = 12
    while webp[start : start + 4] not in (b"VP8 ", b"VP8L"):
        start += 8 + int.from_bytes(webp[start + 4 : start + 8], "little")
        start += start % 2
        if start >= len(webp):
            return None  # an animation: its images lie deeper
    size = int.from_bytes(webp[start + 4 : start + 8], "little")
    fewer = webp[start + 8 : start + 8 + size].rstrip(b"\0")[:-_LAST_BYTES]
    chunk = webp[start : start + 4] + len(fewer).to_bytes(4, "little") + fewer
    chunk += bytes(len(chunk) % 2)
    file = b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
    try:
        WebPImageFile(BytesIO(file)).load()
    except (OSError, SyntaxError, ValueError):
        return None
    return "a part of its data belongs to no pixel"


_LAST_BYTES = 16
"""Of a WebP image, without which no sound one is decoded; four were enough for each of 608."""

_COMPLAINTS: dict[str, Callable[[bytes], str | None]] = {"JPEG": _of_jpeg, "WebP": _of_webp}


def format_of(data: bytes) -> str | None:
    """Name the format from its first bytes; None when unknown.

    >>> format_of(b"GIF89a..."), format_of(b"%PDF-1.7"), format_of(b"text")
    ('GIF', 'PDF', None)
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":  # a box: size, "ftyp", major brand, version, further brands
        end = min(int.from_bytes(data[:4], "big"), 1024)
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIC" if brands & {b"heic", b"heix", b"hevc", b"mif1"} else "video"
    return next((name for start, name in STARTS.items() if data.startswith(start)), None)


def _damaged(error: Exception, *, name: str, kind: str) -> ImageError:
    """Describe a failed decode; decoders meet damaged files with errors of almost any class."""
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own limit, in some decoders
        return ImageError(
            "has more pixels than Pillow's limit, Image.MAX_IMAGE_PIXELS, allows",
            path=name,
            remedy="reduce it, or raise that limit if you trust the file",
        )
    if isinstance(error, MemoryError):
        return ImageError("not enough memory to decode it", path=name, remedy="reduce it")
    detail = f"{error}".strip() or type(error).__name__
    if kind == "AVIF" and not features.check("avif"):
        return ImageError(detail, path=name, remedy="install Pillow from its own wheel")
    return ImageError(
        f"damaged or truncated {kind} data: {detail}", path=name, remedy="make or fetch it again"
    )


def _check_bytes(size: int, *, name: str, limits: Limits) -> None:
    if size == 0:
        raise ImageError("is empty (0 bytes)", path=name, remedy="make or fetch it again")
    if size > limits.max_bytes:
        raise ImageError(
            f"has {size:,} bytes, over the limit of {limits.max_bytes:,}",
            path=name,
            remedy="raise Limits.max_bytes if you trust the file",
        )


def _check_pixels(width: int, height: int, *, name: str, limits: Limits) -> None:
    if width * height == 0:
        raise ImageError(f"has no pixels ({width} x {height})", path=name)
    if width * height > limits.max_pixels:
        raise ImageError(
            f"has {width:,} x {height:,} pixels, over the limit of {limits.max_pixels:,}",
            path=name,
            remedy="reduce it, or raise Limits.max_pixels if you trust the file",
        )


def _from_pil(image: Image.Image, *, name: str, limits: Limits, colour_profile: bool) -> RGB:
    _check_pixels(*image.size, name=name, limits=limits)
    if image.mode in ("I", "F", "LAB"):
        raise ImageError(
            f"has pixels of mode {image.mode}, whose white is not defined",
            path=name,
            remedy="convert it to 8-bit RGB",
        )
    try:
        image.load()
        width, height = image.size  # an orientation kept by TIFF itself is applied by now
        rgb = np.empty((height, width, 3), dtype=np.uint8)
        rows = max(1, STRIP_PIXELS // width)
        profile = image.info.get("icc_profile") if colour_profile else None
        to_srgb = _to_srgb(profile, image.mode) if profile else None
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            rgb[top:bottom] = _opaque_rgb(image.crop((0, top, width, bottom)), to_srgb)
        return np.ascontiguousarray(_upright(rgb, _orientation(image)))
    except Exception as error:  # see _damaged
        raise _damaged(error, name=name, kind=image.format or image.mode) from error


_PROFILED = {"RGB": "RGB", "RGBA": "RGB", "P": "RGB", "CMYK": "CMYK", "L": "GRAY", "LA": "GRAY"}
"""The colours that a profile has to be of, by Pillow's mode of the image."""


@functools.lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion that a colour profile asks for.

    None where it asks for none: sRGB itself, damage, or a profile of other colours than the image
    has. Intent and black point are those of browsers.
    """
    colours = _PROFILED.get(mode)
    if colours is None:
        return None
    own = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L"}[colours]
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if source.profile.xcolor_space.strip() != colours:
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            own,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if own == "RGB" and _changes_nothing(transform):
            return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Say whether colours stay where they are, up to rounding."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(len(levels), -1, 3)
    converted = ImageCms.applyTransform(Image.fromarray(colours), transform)
    assert converted is not None
    return int(np.abs(np.asarray(converted).astype(int) - colours).max()) <= 2


def _opaque_rgb(image: Image.Image, to_srgb: ImageCms.ImageCmsTransform | None) -> RGB:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        rgb = np.repeat(((grey + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
        if "transparency" in image.info:
            rgb[grey == image.info["transparency"]] = 255
        return rgb
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if to_srgb is None:
        image = image.convert("RGB")
    else:
        image = image.convert(str(to_srgb.input_mode))
        converted = ImageCms.applyTransform(image, to_srgb)
        assert converted is not None  # it is not done in place
        image = converted
    rgb = np.asarray(image)
    return rgb if alpha is None else _over_white(np.dstack([rgb, np.asarray(alpha)]))


def _over_white(rgba: NDArray[np.uint8]) -> RGB:
    """Composite (H, W, 4) over white, exactly rounded; 16 bits hold 255 * 255 + 127."""
    alpha = rgba[:, :, 3:].astype(np.uint16)
    return ((rgba[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF is parsed lazily; damage in it says nothing about the pixels
        return 1


def _upright(rgb: RGB, orientation: int) -> RGB:
    """Undo an EXIF orientation, 1 to 8; any other value means upright."""
    if orientation in (5, 6, 7, 8):
        rgb = rgb.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return rgb


def _from_array(array: NDArray[Any], *, name: str, limits: Limits) -> RGB:
    array = np.asarray(array)  # a subclass such as np.matrix indexes in its own way
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(
            f"has shape {array.shape} and type {array.dtype}",
            path=name,
            remedy="give uint8 of shape (H, W, 3), (H, W, 4) or (H, W)",
        )
    _check_pixels(array.shape[1], array.shape[0], name=name, limits=limits)
    if grey:
        return np.repeat(array[:, :, None], 3, axis=2)
    return np.ascontiguousarray(array if array.shape[2] == 3 else _over_white(array))


ROUNDING = 1e-5
"""By how much a tensor's values may leave 0 to 1: what resizing in float32 leaves behind."""


def _from_tensor(tensor: torch.Tensor, *, limits: Limits) -> RGB:
    """Convert without importing torch: whoever holds a tensor has it already."""
    shape = tuple(tensor.shape)
    chw = tensor[0] if len(shape) == 4 and shape[0] == 1 else tensor
    floating = tensor.is_floating_point()
    if chw.ndim != 3 or chw.shape[0] != 3 or not (floating or str(tensor.dtype) == "torch.uint8"):
        raise ImageError(
            f"has shape {shape} and type {tensor.dtype}",
            path="tensor",
            remedy="give (3, H, W) or (1, 3, H, W), uint8 or floats from 0 to 1",
        )
    _check_pixels(chw.shape[2], chw.shape[1], name="tensor", limits=limits)
    if chw.is_meta or str(chw.layout) != "torch.strided":
        raise ImageError("holds no pixels, or not all", path="tensor", remedy="give a dense tensor")
    chw = chw.detach().cpu()
    values = (chw.float() if floating else chw).numpy()
    if floating:
        low, high = values.min(), values.max()
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also true of NaN
            raise ImageError(
                f"has values from {low:g} to {high:g}, outside 0 to 1",
                path="tensor",
                remedy="undo the normalisation and clamp to 0 to 1",
            )
        values = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(values.transpose(1, 2, 0))


EMPTY_OCTAVE = 0.3
"""Energy of the finest details as a share of that of details twice as large, below which they count
as missing. Of AGIQA-3K's pictures enlarged twofold (bicubic) 99 % lie below, of its pictures by
generators that paint every pixel about 1 %."""


def enlarged(rgb: RGB) -> bool:
    """Say whether an image has next to no detail of the size of its pixels.

    So it is with pictures that were enlarged, and with blurred ones. An image too small or too flat
    to tell counts as one that was not.
    """
    if min(rgb.shape[:2]) < 16:
        return False
    height, width = (side // 2 for side in rgb.shape[:2])
    rows = 2 * max(1, STRIP_PIXELS // (2 * rgb.shape[1]))
    halved, fine = np.empty((height, width), np.float32), 0.0
    for top in range(0, 2 * height, rows):
        strip = rgb[top : min(top + rows, 2 * height)].astype(np.float32)
        luma = strip @ np.array([0.299, 0.587, 0.114], np.float32)
        details, halved[top // 2 : (top + rows) // 2] = _details(luma)
        fine += details * len(strip) / (2 * height)
    coarse, _ = _details(halved)
    return coarse > 1.0 and fine < EMPTY_OCTAVE * coarse


def _details(luma: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
    """Return the mean energy of a Haar wavelet's three bands, and the means of 2 x 2 pixels."""
    height, width = (side // 2 * 2 for side in luma.shape)
    above, below = luma[:height:2, :width], luma[1:height:2, :width]
    rows, edges = above + below, above - below
    sums = rows[:, ::2] + rows[:, 1::2]
    bands = (
        rows[:, ::2] - rows[:, 1::2],
        edges[:, ::2] + edges[:, 1::2],
        edges[:, ::2] - edges[:, 1::2],
    )
    energy = sum(float(np.square(band).mean()) for band in bands) / 4
    return energy, (sums / 4).astype(np.float32)
