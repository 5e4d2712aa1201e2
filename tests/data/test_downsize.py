"""Reduced copies: their pixels, their record, and what becomes of runs that stop or fail."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ma_agiqa.data import datasets as registry
from ma_agiqa.data import splits
from ma_agiqa.data.datasets import DATASETS, load_known
from ma_agiqa.data.downsize import RECORD, Reduction, downsize, read_reduction, reduced
from ma_agiqa.data.verify import verify
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.images import read_image
from support.command_line import run

SIZES = {"00001.jpg": (90, 60), "00002.jpg": (60, 120), "00003.jpg": (30, 20)}


SMALL_SPAQ = dataclasses.replace(DATASETS["spaq"], records=3)


@pytest.fixture
def spaq(tmp_path: Path) -> Path:
    """SPAQ with three photographs; the second is stored on its side."""
    root = tmp_path / "SPAQ"
    (root / "TestImage").mkdir(parents=True)
    (root / "Annotations").mkdir()
    lines = ["Image name,MOS,Brightness,Colorfulness,Contrast,Noisiness,Sharpness"]
    for number, (name, (width, height)) in enumerate(SIZES.items()):
        lines.append(f"{name},{10 * number},1,2,3,4,5")
        ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
        picture = Image.fromarray(ramp.astype(np.uint8))
        if number == 1:
            exif = Image.Exif()
            exif[0x0112] = 6  # turn by 90 degrees to look at it
            picture = picture.transpose(Image.Transpose.ROTATE_90)
            picture.save(root / "TestImage" / name, quality=95, exif=exif)
        else:
            picture.save(root / "TestImage" / name, quality=95)
    table = root / "Annotations" / "MOS and Image attribute scores.csv"
    table.write_text("\n".join(lines) + "\n")
    return root


def test_the_shorter_side_is_reduced_and_small_images_are_copies(
    spaq: Path, tmp_path: Path
) -> None:
    seen: list[int] = []
    samples, out = load_known(SMALL_SPAQ, spaq), tmp_path / "out"
    done = downsize(samples, spaq, out, short_side=40, on_image=lambda: seen.append(1))
    assert (done.reduced, done.copied, done.present, done.failed) == (2, 1, 0, {})
    assert len(seen) == 3
    shapes = [read_image(tmp_path / "out" / "TestImage" / name).shape for name in SIZES]
    assert shapes == [(40, 60, 3), (80, 40, 3), (20, 30, 3)]
    name = "TestImage/00003.jpg"
    assert (tmp_path / "out" / name).read_bytes() == (spaq / name).read_bytes()


def test_a_reduced_image_is_upright_and_close_to_its_source(spaq: Path, tmp_path: Path) -> None:
    downsize(load_known(SMALL_SPAQ, spaq), spaq, tmp_path / "out", short_side=40)
    stored = read_image(tmp_path / "out" / "TestImage" / "00002.jpg")
    wanted = reduced(read_image(spaq / "TestImage" / "00002.jpg"), 40)
    with Image.open(tmp_path / "out" / "TestImage" / "00002.jpg") as picture:
        assert not picture.getexif()
    # JPEG of quality 95 on a smooth ramp: single steps of 255.
    assert np.abs(stored.astype(int) - wanted).max() <= 6


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((3000, 4000), (512, 683)),
        ((512, 9000), (512, 9000)),
        ((1, 5), (1, 5)),
        ((513, 513), (512, 512)),
    ],
)
def test_sides_are_rounded_and_never_enlarged(
    shape: tuple[int, int], wanted: tuple[int, int]
) -> None:
    assert reduced(np.zeros((*shape, 3), np.uint8), 512).shape == (*wanted, 3)


def test_a_reduced_copy_says_so_in_samples_splits_and_verification(
    spaq: Path, tmp_path: Path
) -> None:
    downsize(load_known(SMALL_SPAQ, spaq), spaq, tmp_path / "out", short_side=40)
    samples = registry.load("spaq", tmp_path / "out")
    (caveat,) = samples.caveats
    assert caveat == "images reduced to a shorter side of 40 pixels, Lanczos, antialiased (Pillow)"
    assert caveat in splits.resolve("all", samples, tmp_path).caveats
    report = verify(SMALL_SPAQ, tmp_path / "out")
    assert report.ok
    assert report.caveats == (caveat,)
    assert registry.load("spaq", spaq).caveats == ()
    assert samples.target().tolist() == registry.load("spaq", spaq).target().tolist()


def test_a_stopped_run_goes_on(spaq: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    downsize(load_known(SMALL_SPAQ, spaq), spaq, out, short_side=40)
    kept = (out / "TestImage" / "00001.jpg").stat().st_mtime_ns
    (out / "TestImage" / "00002.jpg").unlink()
    done = downsize(load_known(SMALL_SPAQ, spaq), spaq, out, short_side=40)
    assert (done.reduced, done.copied, done.present) == (1, 0, 2)
    assert (out / "TestImage" / "00001.jpg").stat().st_mtime_ns == kept


def test_images_that_cannot_be_read_are_named_and_the_rest_is_done(
    spaq: Path, tmp_path: Path
) -> None:
    (spaq / "TestImage" / "00001.jpg").write_bytes(b"")
    (spaq / "TestImage" / "00003.jpg").unlink()
    done = downsize(load_known(SMALL_SPAQ, spaq), spaq, tmp_path / "out", short_side=40)
    assert [Path(file).name for file in done.failed] == ["00001.jpg", "00003.jpg"]
    assert done.reduced == 1
    names = [path.name for path in (tmp_path / "out" / "TestImage").iterdir()]
    assert names == ["00002.jpg"]  # nothing half written


def refuse(root: Path, out: Path, reason: str) -> None:
    with pytest.raises((DataError, UsageError), match=reason):
        downsize(load_known(SMALL_SPAQ, root), root, out, short_side=30)


def test_a_copy_never_mixes_reductions_or_overwrites(spaq: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    downsize(load_known(SMALL_SPAQ, spaq), spaq, out, short_side=40)
    refuse(spaq, out, "another reduction: images reduced to a shorter side of 40")
    refuse(out, tmp_path / "twice", "its images are reduced already")
    refuse(spaq, spaq, "must lie in another folder")
    refuse(spaq, tmp_path, "holds other files")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"short_side": 1, "more": 2}'])
def test_a_damaged_record_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(DataError, match=r"downsized.json: the record .* is damaged"):
        read_reduction(tmp_path)


def test_the_record_is_read_as_written(spaq: Path, tmp_path: Path) -> None:
    assert read_reduction(spaq) is None
    downsize(load_known(SMALL_SPAQ, spaq), spaq, tmp_path / "out", short_side=40)
    assert read_reduction(tmp_path / "out") == Reduction(40)
    assert json.loads((tmp_path / "out" / RECORD).read_text())["short_side"] == 40


def test_the_command_reports_and_fails_with_the_images(spaq: Path, tmp_path: Path) -> None:
    words = ("datasets", "downsize", "spaq", "--root", spaq, "--out", tmp_path / "out")
    done = run(*words, "--short-side", 40)
    assert done.exit_code == 0
    assert "2 images reduced, 1 copied, 0 there already, 0 failed" in done.stdout
    (spaq / "TestImage" / "00001.jpg").unlink()
    (tmp_path / "out" / "TestImage" / "00001.jpg").unlink()
    failed = run(*words, "--short-side", 40)
    assert failed.exit_code == 1
    assert "00001.jpg: " in failed.stdout


def test_verify_finds_an_image_that_was_not_reduced(spaq: Path, tmp_path: Path) -> None:
    downsize(load_known(SMALL_SPAQ, spaq), spaq, tmp_path / "out", short_side=40)
    name = "TestImage/00001.jpg"
    (tmp_path / "out" / name).write_bytes((spaq / name).read_bytes())
    (problem,) = verify(SMALL_SPAQ, tmp_path / "out").problems
    assert problem.reason == "shorter side over 40 pixels: not reduced"
