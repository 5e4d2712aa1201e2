"""Files that are no images, damaged, too large or not readable: one typed error each."""

from __future__ import annotations

import io
import os
import struct
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from ma_agiqa.errors import ImageError
from ma_agiqa.images import Limits, decode, is_image_path, label, read_bytes, read_image
from support.encoding import encoded as encode

KINDS = ["PNG", "JPEG", "WEBP", "AVIF", "BMP", "TIFF", "GIF"]


def encoded(kind: str, size: tuple[int, int] = (48, 32)) -> bytes:
    """A file of noise, so that every part of it carries pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def png_bomb(side: int) -> bytes:
    """A valid 1-bit PNG of side x side white pixels in a few kilobytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    row = b"\0" + b"\xff" * (-(-side // 8))
    pack = zlib.compressobj(1)
    body = b"".join(pack.compress(row * 100) for _ in range(side // 100)) + pack.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


# Damaged


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_files_are_refused(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.img"
    data = encoded(kind)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=r"(?s)cut\.img: .*\(.+\)$") as caught:
        read_image(path)
    assert caught.value.path == str(path)
    if share > 0.02:
        assert "truncated" in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # Pillow may warn of odd metadata; not the point here
@pytest.mark.parametrize("kind", KINDS)
def test_damage_anywhere_gives_pixels_or_an_image_error(kind: str) -> None:
    data = encoded(kind, size=(16, 12))
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for at in rng.integers(0, min(len(data), 400), size=rng.integers(1, 6)):
            damaged[at] = rng.integers(0, 256)
        try:
            image = decode(bytes(damaged), limits=Limits(max_pixels=100_000))
        except ImageError:
            refused += 1
        else:
            assert image.dtype == np.uint8
            assert image.shape[2] == 3
    assert refused > 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"this is text, not an image", "is not an image"),
        (b"BM: a text that starts like a bitmap", "damaged or truncated BMP"),
        (b"\x89PNG\r\n\x1a\n", "damaged or truncated PNG"),
        (b"\xff\xd8\xff\xe0", "damaged or truncated JPEG"),
        (b"RIFF\0\0\0\0WEBP", "damaged or truncated WebP"),
        (b"\0\0\0\x18ftypavif", "damaged or truncated AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "holds HEIC data"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "holds video data"),
        (b"<!DOCTYPE html><title>404</title>", "holds HTML data"),
        (b"%PDF-1.7", "holds PDF data"),
        (b"version https://git-lfs.github.com/spec/v1", "holds Git LFS pointer data"),
    ],
)
def test_content_that_is_no_image_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.remedy is not None


def test_an_image_given_as_bytes_is_named_so() -> None:
    with pytest.raises(ImageError, match=r"^image given as bytes: is not an image"):
        read_image(b"nothing")
    with pytest.raises(ImageError, match=r"^image\[3\]: is not an image"):
        decode(b"nothing", name="image[3]")


# Limits


def test_a_png_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bomb(20_000))
    # Memory for pixels is taken in `load`, in C where Python cannot count it: it is never reached.
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoding began"))
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own bomb warning must not appear either
        with pytest.raises(ImageError, match=r"20,000 x 20,000 pixels, over the limit of 120,"):
            read_image(path)
    assert time.process_time() - started < 0.5  # decoding takes seconds, the header under 1 ms


def test_a_large_image_within_the_limits_gives_no_warning() -> None:
    # 90 megapixels: above the size at which Pillow warns, below our limit.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(png_bomb(9_500)).shape == (9_500, 9_500, 3)


def test_limits_hold_at_the_exact_size(tmp_path: Path) -> None:
    data = encoded("PNG", size=(10, 10))
    path = tmp_path / "ten.png"
    path.write_bytes(data)
    assert read_image(path, limits=Limits(max_bytes=len(data), max_pixels=100)).shape == (10, 10, 3)
    with pytest.raises(ImageError, match=r"10 x 10 pixels, over the limit of 99"):
        read_image(path, limits=Limits(max_pixels=99))
    for source in (path, data):
        with pytest.raises(ImageError, match=f"over the limit of {len(data) - 1}"):
            read_image(source, limits=Limits(max_bytes=len(data) - 1))
    for source in (np.zeros((10, 10, 3), np.uint8), Image.new("RGB", (10, 10))):
        with pytest.raises(ImageError, match="over the limit of 99"):
            read_image(source, limits=Limits(max_pixels=99))


@pytest.mark.parametrize("kind", ["WEBP", "TIFF"])  # whose decoders have a limit of their own
def test_what_pillow_takes_for_a_bomb_is_refused_and_not_called_damaged(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # a bomb has more than twice as many
    with pytest.raises(ImageError, match=r"more pixels than Pillow's limit.*\(reduce it"):
        decode(data)


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_pixels=0"):
        Limits(max_pixels=0)


def test_no_setting_of_pillow_is_changed() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    decode(encoded("PNG"))
    assert before == (
        Image.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        list(warnings.filters),
    )


# Files


def test_missing_and_impossible_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.png: no such file"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image("nul\0character.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / ("long" * 100 + ".png"))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="is a pipe"):
        read_image(tmp_path / "pipe.png")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied"), "permission denied"),
        (FileNotFoundError(2, "No such file"), "no such file .*moved or deleted"),  # vanished
        (OSError(5, "Input/output error"), "cannot be read: Input/output error"),
    ],
)
def test_files_that_cannot_be_opened_are_named(
    error: OSError, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "there.png"
    path.write_bytes(encoded("PNG"))

    def refuse(*_: object) -> None:
        raise error

    # Patched, because a test run as root may read everything.
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match=rf"there\.png: {reason}"):
        read_bytes(path)


def test_a_file_that_grows_while_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "growing.png"
    path.write_bytes(encoded("PNG"))
    before = path.stat()
    path.write_bytes(path.read_bytes() + b"more")
    monkeypatch.setattr(os, "stat", lambda name: before)
    with pytest.raises(ImageError, match="changed while being read"):
        read_bytes(path)


def test_read_bytes_returns_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG"))
    assert read_bytes(path) == path.read_bytes()


# Names


def test_labels_are_the_path_or_the_place_in_the_input() -> None:
    assert label("a/b.png", 3) == "a/b.png"
    assert label(Path("a") / "b.png", 3) == os.path.join("a", "b.png")
    assert label(b"data", 3) == "image[3]"


def test_image_paths_are_known_by_their_suffix() -> None:
    wanted = ["a.png", "a.JPG", "b/c.Jpeg", "a.webp", "a.avif", "a.bmp", "a.tif", "a.gif"]
    unwanted = ["a.txt", "png", "a.png.json", ".png", "._a.png", "b.png/c"]
    assert [name for name in wanted + unwanted if is_image_path(name)] == wanted


# Damage that a decoder fills in


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("damage", ["half and an end marker", "a gap"])
def test_jpeg_data_that_its_decoder_would_fill_in_are_refused(
    damage: str, progressive: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    data = encode(pixels, "JPEG", quality=90, progressive=progressive)
    assert decode(data).shape == (96, 96, 3)
    middle = len(data) // 2
    rest = data[middle + 400 :] if damage == "a gap" else b"\xff\xd9"
    data = data[:middle] + rest
    with pytest.raises(ImageError, match="damaged or truncated JPEG data: "):
        decode(data, name="a.jpg")


def test_bytes_left_over_before_the_end_of_a_jpeg_are_no_damage() -> None:
    pixels = np.full((32, 32, 3), 99, dtype=np.uint8)
    data = encode(pixels, "JPEG")
    np.testing.assert_array_equal(decode(data[:-2] + bytes(5) + data[-2:]), decode(data))


def test_four_colours_are_not_taken_for_damage() -> None:
    ink = Image.fromarray(np.full((32, 32, 4), 40, dtype=np.uint8), mode="CMYK")
    assert decode(encode(ink, "JPEG")).shape == (32, 32, 3)


@pytest.mark.parametrize("extended", [False, True])
def test_webp_data_that_lead_its_decoder_astray_are_refused(extended: bool) -> None:
    """Bits changed at twelve places; where the decoder notices nothing, too much is left over."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    extra = {"exif": b"Exif\0\0MM\0*\0\0\0\b\0\0\0\0\0\0"} if extended else {}
    data = encode(pixels, "WEBP", quality=85, **extra)
    assert (b"VP8X" in data) == extended
    sound, reasons = decode(data), []
    for place in range(600, 3000, 200):
        damaged = bytearray(data)
        damaged[place] ^= 16
        try:
            assert np.array_equal(decode(bytes(damaged)), sound)
        except ImageError as error:
            reasons.append(str(error))
    assert any("a part of its data belongs to no pixel" in reason for reason in reasons)
    assert len(reasons) >= 11


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}])
def test_padding_behind_a_webp_image_is_no_damage(options: dict[str, Any]) -> None:
    shades = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    data = encode(np.stack([shades] * 3, axis=-1), "WEBP", **options)
    assert data[12:16] in (b"VP8 ", b"VP8L")
    size = int.from_bytes(data[16:20], "little") + 40
    padded = data[:16] + size.to_bytes(4, "little") + data[20:] + bytes(40)
    padded = b"RIFF" + (len(padded) - 8).to_bytes(4, "little") + padded[8:]
    np.testing.assert_array_equal(decode(padded), decode(data))


def test_an_animated_webp_is_its_first_image() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert b"ANMF" in file.getvalue()
    assert decode(file.getvalue())[0, 0].tolist() == [255, 0, 0]


def test_no_real_jpeg_is_refused_nor_its_copy_as_webp(agiqa_3k: Path) -> None:
    for path in sorted((agiqa_3k / "images").iterdir())[::10]:
        small = read_image(path)[::4, ::4]
        assert decode(encode(small, "WEBP", quality=70)).shape == small.shape


# Objects that only look like images


class Pathless:
    def __fspath__(self) -> str:
        raise RuntimeError("nowhere")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (torch.zeros(3, 40, 40, device="meta"), "holds no pixels"),
        (torch.zeros(3, 40, 40).to_sparse(), "holds no pixels"),
        (Pathless(), "gives no path: nowhere"),
    ],
)
def test_hollow_objects_are_refused_by_name(source: object, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(source)  # type: ignore[arg-type]
