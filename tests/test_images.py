"""Images in: every format, mode and orientation, written by the tests themselves."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from ma_agiqa import images
from ma_agiqa.errors import ImageError
from ma_agiqa.images import decode, read_image
from support.encoding import encoded

ORIENTATION = 0x0112
LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}
LOSSY = {"JPEG": {"quality": 95}, "AVIF": {"quality": 95}, "WEBP": {"quality": 95}}


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    """A smooth coloured gradient with one sharp corner, shape (24, 40, 3)."""
    y, x = np.mgrid[0:24, 0:40]
    rgb = np.stack([x * 6, y * 10, 255 - x * 3 - y * 3], axis=-1).astype(np.uint8)
    rgb[:6, :8] = (250, 20, 20)
    return rgb


def assert_rgb(image: NDArray[np.uint8]) -> None:
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.flags.c_contiguous


# Formats


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_same_array(kind: str, picture: NDArray[np.uint8]) -> None:
    image = decode(encoded(picture, kind, **LOSSLESS[kind]))
    assert_rgb(image)
    np.testing.assert_array_equal(image, picture)


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_formats_are_decoded_as_pillow_decodes_them(
    kind: str, picture: NDArray[np.uint8]
) -> None:
    data = encoded(picture, kind, **LOSSY[kind])
    image = decode(data)
    assert_rgb(image)
    np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    # Quality 95 with chroma at half resolution: the sharp corner may ring, the mean may not move.
    assert abs(image.astype(int) - picture).mean() < 4


def test_gif_gives_its_palette_colours(picture: NDArray[np.uint8]) -> None:
    few = (picture // 128) * 128  # eight colours, which a palette holds exactly
    np.testing.assert_array_equal(decode(encoded(few, "GIF")), few)


def test_the_suffix_does_not_decide_the_format(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(picture))
    np.testing.assert_array_equal(read_image(path), picture)
    np.testing.assert_array_equal(read_image(str(path)), picture)


def test_real_jpegs_decode_as_pillow_decodes_them(agiqa_3k: Path) -> None:
    paths = sorted((agiqa_3k / "images").iterdir())[::150]
    assert len(paths) >= 15
    for path in paths:
        with Image.open(path) as reference:
            np.testing.assert_array_equal(read_image(path), np.asarray(reference.convert("RGB")))


# Modes


def test_grey_is_replicated() -> None:
    grey = np.arange(60, dtype=np.uint8).reshape(6, 10)
    image = decode(encoded(grey))
    assert_rgb(image)
    for channel in range(3):
        np.testing.assert_array_equal(image[:, :, channel], grey)


def test_one_bit_becomes_black_and_white() -> None:
    bits = np.eye(8, dtype=bool)
    image = decode(encoded(Image.fromarray(bits)))
    np.testing.assert_array_equal(image, np.repeat(bits[:, :, None] * 255, 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_divided_by_257_and_rounded(kind: str) -> None:
    values = np.array([[0, 1, 128, 129, 257, 32768, 65278, 65407, 65535]], dtype=np.uint16)
    image = decode(encoded(Image.fromarray(values), kind))
    expected = np.rint(values / 257).astype(np.uint8)  # no value lies on a half: 257 is odd
    np.testing.assert_array_equal(image, np.repeat(expected[:, :, None], 3, axis=2))


def test_big_endian_sixteen_bit_grey_is_read_as_such() -> None:
    values = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    image = read_image(Image.frombytes("I;16B", (4, 1), values.astype(">u2").tobytes()))
    np.testing.assert_array_equal(image[0, :, 0], [0, 1, 100, 255])


def test_sixteen_bit_colour_keeps_its_high_byte() -> None:
    cv2 = pytest.importorskip("cv2", reason="writes the 16-bit colour PNG that Pillow cannot")
    values = np.array([[[0, 255, 256], [0x1234, 0xABFF, 65535]]], dtype=np.uint16)
    data = cv2.imencode(".png", values[:, :, ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode(data), values >> 8)


def test_palette_gives_its_colours(picture: NDArray[np.uint8]) -> None:
    few = (picture // 128) * 128
    paletted = Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(decode(encoded(paletted)), few)


def test_transparent_palette_entry_becomes_white() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(
        decode(encoded(image, transparency=0)), [[[255] * 3, [40, 50, 60], [255] * 3]]
    )


def test_transparent_colour_of_opaque_modes_becomes_white() -> None:
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    np.testing.assert_array_equal(
        decode(encoded(rgb, transparency=(1, 2, 3))), [[[255] * 3, [4, 5, 6]]]
    )
    deep = Image.fromarray(np.array([[257, 514]], dtype=np.uint16))
    np.testing.assert_array_equal(decode(encoded(deep, transparency=257)), [[[255] * 3, [2] * 3]])


def test_alpha_is_composited_over_white_for_every_value() -> None:
    colour, alpha = np.mgrid[0:256, 0:256]
    rgba = np.stack([colour, colour, 255 - colour, alpha], axis=-1).astype(np.uint8)
    exact = rgba[:, :, :3] * (alpha / 255)[:, :, None] + 255 - alpha[:, :, None]
    for image in (decode(encoded(rgba)), read_image(rgba), read_image(Image.fromarray(rgba))):
        assert_rgb(image)
        # Within half a step of the exact composite, plus float64 rounding: nothing is truncated.
        assert abs(image - exact).max() <= 0.5 + 1e-9


def test_grey_with_alpha_is_composited_over_white() -> None:
    image = Image.merge("LA", [Image.new("L", (2, 2), 100), Image.new("L", (2, 2), 51)])
    assert (decode(encoded(image)) == 224).all()  # 100 * 0.2 + 255 * 0.8


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_print_and_video_colours_are_converted(mode: str, picture: NDArray[np.uint8]) -> None:
    image = Image.fromarray(picture).convert(mode)
    np.testing.assert_array_equal(read_image(image), np.asarray(image.convert("RGB")))
    if mode == "CMYK":
        for kind in ("JPEG", "TIFF"):
            # The file holds CMYK; JPEG at quality 95 may move a value a little.
            decoded = decode(encoded(image, kind, **({"quality": 95} if kind == "JPEG" else {})))
            assert abs(decoded.astype(int) - picture).mean() < 4


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_animated_images_give_their_first_frame(kind: str) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("white", "black"))
    image = decode(encoded(first, kind, save_all=True, append_images=[second]))
    # AVIF and WebP are lossy here; white stays within a step of white, black is 255 away.
    assert image.min() >= 254


# Orientation


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(
    kind: str, orientation: int, picture: NDArray[np.uint8]
) -> None:
    stored = Image.fromarray(picture)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(stored, kind, exif=exif)
    with Image.open(io.BytesIO(data)) as reference:
        expected = np.asarray(ImageOps.exif_transpose(reference).convert("RGB"))
    image = decode(data)
    assert_rgb(image)
    assert image.shape[:2] == ((40, 24) if orientation >= 5 else (24, 40))
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        *[(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (4, (-1, 0))],
        *[(5, (0, 0)), (6, (0, -1)), (7, (-1, -1)), (8, (-1, 0))],
    ],
)
def test_the_red_corner_lands_where_the_exif_standard_says(
    orientation: int, corner: tuple[int, int], picture: NDArray[np.uint8]
) -> None:
    image = Image.fromarray(picture)
    image.getexif()[ORIENTATION] = orientation
    assert tuple(read_image(image)[corner]) == (250, 20, 20)


def test_damaged_exif_is_ignored(picture: NDArray[np.uint8]) -> None:
    data = encoded(picture, "PNG", exif=b"Exif\0\0not a TIFF header")
    np.testing.assert_array_equal(decode(data), picture)


# Arrays, tensors, PIL images


def test_arrays_and_tensors_give_their_own_pixels(picture: NDArray[np.uint8]) -> None:
    chw = torch.from_numpy(picture).permute(2, 0, 1)
    sources = [
        picture,
        picture[:, ::-1][:, ::-1],
        Image.fromarray(picture),
        encoded(picture),
        bytearray(encoded(picture)),
        chw,
        chw[None],
        chw / 255,
        (chw / 255).double().requires_grad_(),
    ]
    for source in sources:
        image = read_image(source)
        assert_rgb(image)
        np.testing.assert_array_equal(image, picture)


def test_a_tensor_one_rounding_outside_of_its_range_is_read(picture: NDArray[np.uint8]) -> None:
    unit = torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255
    off = torch.where(unit > 0.5, unit + 1e-6, unit - 1e-6)
    assert np.array_equal(read_image(off), read_image(unit))


def test_half_precision_tensors_are_accepted(picture: NDArray[np.uint8]) -> None:
    chw = torch.from_numpy(picture).permute(2, 0, 1) / 255
    for dtype in (torch.float16, torch.bfloat16):
        image = read_image(chw.to(dtype))
        # bfloat16 keeps 8 bits: near 1 its step is 1/256, so half a step either way.
        assert abs(image.astype(int) - picture).max() <= 1


def test_grey_arrays_are_replicated() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = read_image(grey)
    assert_rgb(image)
    np.testing.assert_array_equal(image, np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4, 3), dtype=np.uint16), "uint16"),
        (np.zeros((3, 4, 5), dtype=np.uint8), r"\(3, 4, 5\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "no pixels"),
        (np.zeros(4, dtype=np.uint8), "shape"),
        (torch.zeros(4, 4, 3), "shape"),
        (torch.zeros(2, 3, 4, 4), "shape"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        (torch.full((3, 4, 4), float("nan")), "nan"),
        (torch.full((3, 4, 4), 1.5), "1.5"),
        (torch.full((3, 4, 4), -0.1), "-0.1"),
        (torch.zeros(3, 0, 4), "no pixels"),
        (Image.new("RGB", (0, 4)), "no pixels"),
        (Image.new("F", (4, 4)), "mode F"),
        (Image.new("I", (4, 4)), "mode I"),
        (Image.new("LAB", (4, 4)), "mode LAB"),
        (None, "NoneType"),
        ([[0, 0, 0]], "list"),
    ],
)
def test_data_that_is_no_image_is_refused(source: object, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(source)  # type: ignore[arg-type]


# Size


def test_a_single_pixel_is_an_image() -> None:
    one = np.array([[[1, 2, 3]]], dtype=np.uint8)
    np.testing.assert_array_equal(decode(encoded(one)), one)


def test_a_very_wide_image_is_decoded() -> None:
    assert decode(encoded(Image.new("RGB", (40_000, 10), "red"))).shape == (10, 40_000, 3)


def test_a_large_image_is_converted_in_strips_without_a_seam(
    monkeypatch: pytest.MonkeyPatch, picture: NDArray[np.uint8]
) -> None:
    alpha = np.full((24, 40, 1), 77, dtype=np.uint8)
    sources = [Image.fromarray(np.concatenate([picture, alpha], axis=2))]
    sources += [sources[0].convert(mode) for mode in ("RGB", "L", "P", "CMYK")]
    whole = [read_image(source) for source in sources]
    monkeypatch.setattr("ma_agiqa.images.STRIP_PIXELS", 200)  # five rows, so the last is shorter
    for source, expected in zip(sources, whole, strict=True):
        np.testing.assert_array_equal(read_image(source), expected)


def test_enlarged_pictures_are_noticed_and_others_are_not(agiqa_3k: Path) -> None:
    generators = ("DALLE2_normal", "midjourney_normal", "sd1.5_normal", "xl2.2_normal")
    paths = [agiqa_3k / f"images/{name}_{n:03d}.jpg" for name in generators for n in (3, 33, 77)]
    originals = [Image.open(path).convert("RGB") for path in paths]
    twice = [
        np.asarray(picture.resize((1024, 1024), kind))
        for picture in originals
        for kind in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)
    ]
    assert sum(images.enlarged(rgb) for rgb in twice) >= 23
    assert sum(images.enlarged(np.asarray(picture)) for picture in originals) <= 1


@pytest.mark.parametrize("shape", [(1, 1, 3), (15, 400, 3), (64, 64, 3)])
def test_small_and_flat_pictures_do_not_count_as_enlarged(shape: tuple[int, ...]) -> None:
    assert not images.enlarged(np.full(shape, 90, np.uint8))


def test_a_matrix_is_read_as_the_array_it_holds() -> None:
    """It ended the process: indexing a matrix keeps it two-dimensional."""
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert np.array_equal(read_image(np.asmatrix(grey)), read_image(grey))


# Colour profiles


def exchanged() -> bytes:
    """Return sRGB's own profile with red and blue exchanged: a conversion that shows.

    The tags rXYZ and bXYZ of a profile say where its primaries lie.
    """
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert data.count(b"rXYZ") == data.count(b"bXYZ") == 1
    return data.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")


def test_a_colour_profile_is_applied_unless_told_otherwise(picture: NDArray[np.uint8]) -> None:
    data = encoded(picture, icc_profile=exchanged())
    # White stays and primaries change places, up to a step of rounding in LittleCMS.
    assert abs(decode(data).astype(int) - picture[:, :, ::-1]).max() <= 2
    np.testing.assert_array_equal(decode(data, colour_profile=False), picture)
    np.testing.assert_array_equal(read_image(data), decode(data))


def test_alpha_is_kept_from_a_colour_profile() -> None:
    rgba = np.array([[[200, 30, 30, 255], [200, 30, 30, 0]]], dtype=np.uint8)
    ((opaque, clear),) = decode(encoded(rgba, icc_profile=exchanged()))
    assert abs(opaque.astype(int) - [30, 30, 200]).max() <= 2
    assert clear.tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
        b"not a profile",
        exchanged()[:200],
    ],
    ids=["sRGB", "of other colours", "junk", "cut"],
)
def test_a_profile_that_asks_for_nothing_changes_nothing(
    picture: NDArray[np.uint8], profile: bytes
) -> None:
    np.testing.assert_array_equal(decode(encoded(picture, icc_profile=profile)), picture)


def test_a_grey_image_with_a_profile_of_colours_stays_as_stored() -> None:
    grey = np.arange(60, dtype=np.uint8).reshape(6, 10)
    image = decode(encoded(grey, icc_profile=exchanged()))
    np.testing.assert_array_equal(image, np.repeat(grey[:, :, None], 3, axis=2))


def test_a_large_picture_is_judged_in_strips(
    agiqa_3k: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = images.read_image(min((agiqa_3k / "images").iterdir()))[:511, :301]
    whole: list[float] = []
    details = images._details

    def noted(luma: np.ndarray) -> tuple[float, np.ndarray]:
        whole.append(details(luma)[0])
        return details(luma)

    monkeypatch.setattr(images, "_details", noted)
    images.enlarged(rgb)
    monkeypatch.setattr(images, "STRIP_PIXELS", 4000)
    images.enlarged(rgb)
    assert len(whole) > 40
    assert whole[-1] == pytest.approx(whole[1])  # of half the size, put together from strips
