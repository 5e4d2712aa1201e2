"""A copy of a data set with smaller images, for sets of huge photographs.

Decoding a photograph of 12 megapixels to look at 224 x 224 of them costs most of an epoch, so
people reduce SPAQ to a shorter side of 512 pixels once. The copy has the layout of the
original, a record of the reduction (`reduction.py`) and the annotation files, so everything
works on it as on the original and says that it is one.

Upright, without metadata; images that are small enough are copied byte for byte. What this
file does not do: enlarge, crop, or change the original.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ma_agiqa.data.layouts import read_annotations, samples_of
from ma_agiqa.data.reduction import Reduction, read_reduction, write_reduction
from ma_agiqa.data.spec import DatasetSpec
from ma_agiqa.errors import DataError, ImageError, UsageError
from ma_agiqa.files import atomic_path
from ma_agiqa.images import read_image
from ma_agiqa.types import RGB

SHORT_SIDE = 512
"""Pixels: what the literature reduces SPAQ to."""

_SAVE: dict[str, dict[str, Any]] = {
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".png": {"format": "PNG"},
}


@dataclass(frozen=True)
class Downsized:
    """What a run did, by number of images.

    Attributes:
        reduced, copied: written by this run.
        present: there from an earlier run.
        failed: source file -> reason, for those that could not be read.
    """

    reduced: int
    copied: int
    present: int
    failed: dict[str, str]


def downsize(
    spec: DatasetSpec,
    root: str | Path,
    out: str | Path,
    *,
    short_side: int = SHORT_SIDE,
    workers: int | None = None,
    on_image: Callable[[], None] | None = None,
) -> Downsized:
    """Write a copy of a data set in which no shorter side is over `short_side` pixels.

    A killed run leaves whole images only; the same call goes on. Images that are missing or
    cannot be read are counted, and the run goes on.

    Raises:
        UsageError: `out` is the data set itself.
        DataError: the annotations cannot be read, or `out` holds images of another reduction.
        OutputError: the disk is full or the place cannot be written.
    """
    root, out = Path(os.path.abspath(root)), Path(os.path.abspath(out))
    if out == root:
        raise UsageError("the copy must lie in another folder than the data set", path=out)
    annotations = read_annotations(spec, root)
    samples = samples_of(spec, annotations, root)
    reduction = Reduction(short_side)
    _check_folders(root, out, reduction)
    write_reduction(out, reduction)
    for path in annotations.files:
        _copy(path, out / path.relative_to(root))
    results = _each(
        [(path, out / path.relative_to(root)) for path in samples.path],
        short_side,
        workers=workers or os.cpu_count() or 1,
        on_image=on_image,
    )
    counts = {"reduced": 0, "copied": 0, "present": 0}
    failed: dict[str, str] = {}
    for path, outcome in zip(samples.path, results, strict=True):
        if outcome in counts:
            counts[outcome] += 1
        else:
            failed[str(path)] = outcome
    return Downsized(**counts, failed=failed)


def _check_folders(root: Path, out: Path, reduction: Reduction) -> None:
    if read_reduction(root) is not None:
        raise DataError(
            "its images are reduced already", path=root, remedy="start from the original"
        )
    earlier = read_reduction(out)
    if earlier is None:
        if out.is_dir() and any(out.iterdir()):
            raise DataError("holds other files", path=out, remedy="give an empty folder")
    elif earlier != reduction:
        raise DataError(
            f"holds images of another reduction: {earlier.caveat}",
            path=out,
            remedy="give another folder",
        )


def reduced(rgb: RGB, short_side: int) -> RGB:
    """Return an image whose shorter side has `short_side` pixels; a smaller one as it is."""
    height, width = rgb.shape[:2]
    if min(height, width) <= short_side:
        return rgb
    factor = short_side / min(height, width)
    size = (max(short_side, round(width * factor)), max(short_side, round(height * factor)))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS))


def _each(
    pairs: list[tuple[Path, Path]],
    short_side: int,
    *,
    workers: int,
    on_image: Callable[[], None] | None,
) -> Iterator[str]:
    """Yield, in order, what became of each image: an outcome, or why it failed."""

    def work(pair: tuple[Path, Path]) -> str:
        try:
            return _one(*pair, short_side)
        except ImageError as error:
            return error.reason
        finally:
            if on_image is not None:
                on_image()

    with ThreadPoolExecutor(workers) as pool:  # decoders release the interpreter
        yield from pool.map(work, pairs)


def _one(source: Path, target: Path, short_side: int) -> str:
    if target.is_file():
        return "present"
    rgb = read_image(source)
    smaller = reduced(rgb, short_side)
    if smaller is rgb:
        _copy(source, target)
        return "copied"
    options = _SAVE.get(target.suffix.lower())
    if options is None:
        raise ImageError(f"images of kind {target.suffix} are not reduced", path=source)
    with atomic_path(target) as temporary:
        Image.fromarray(smaller).save(temporary, **options)
    return "reduced"


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
