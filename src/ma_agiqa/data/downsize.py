"""A copy of a data set with smaller images, for sets of huge photographs.

Decoding a photograph of 12 megapixels to look at 224 x 224 of them costs most of an epoch, so
people reduce SPAQ to a shorter side of 512 pixels once. The copy has the layout of the
original and its annotation files. It also has a record of the reduction, which `datasets.py`
turns into a caveat: numbers on reduced images are not numbers on the photographs.

Upright, without metadata; images that are small enough are copied byte for byte. What this
file does not do: enlarge, crop, or change the original.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ma_agiqa.data.samples import Samples
from ma_agiqa.errors import DataError, ImageError, UsageError
from ma_agiqa.files import atomic_path, write_atomically
from ma_agiqa.images import read_image
from ma_agiqa.provenance import available_cores
from ma_agiqa.types import RGB

SHORT_SIDE = 512
"""Pixels: what the literature reduces SPAQ to."""

RECORD = "downsized.json"
"""The record of the reduction, in the root of the copy."""

_JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}
_SAVE: dict[str, dict[str, Any]] = {".jpg": _JPEG, ".jpeg": _JPEG, ".png": {"format": "PNG"}}


@dataclass(frozen=True)
class Reduction:
    """How the images of a folder were made from those distributed; smaller ones are copies."""

    short_side: int
    resampling: str = "Lanczos, antialiased (Pillow)"
    encoding: str = "JPEG quality 95, chroma not subsampled; PNG stays PNG"

    @property
    def caveat(self) -> str:
        """The sentence a reader of numbers needs."""
        return f"images reduced to a shorter side of {self.short_side} pixels, {self.resampling}"


@dataclass(frozen=True)
class Downsized:
    """How many images a run wrote or found from an earlier run; source file -> why it failed."""

    reduced: int
    copied: int
    present: int
    failed: dict[str, str]


def read_reduction(root: str | Path) -> Reduction | None:
    """Return the record in a data set's root; None where images are as distributed.

    Raises:
        DataError: there is one, and it cannot be read.
    """
    path = Path(root) / RECORD
    try:
        return Reduction(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"the record of how images were reduced is damaged: {error}",
            path=path,
            remedy="run `ma-agiqa datasets downsize` again into a new folder",
        ) from error


def downsize(
    samples: Samples,
    root: str | Path,
    out: str | Path,
    *,
    short_side: int = SHORT_SIDE,
    workers: int | None = None,
    on_image: Callable[[], None] | None = None,
) -> Downsized:
    """Write a copy of the data set under `root`, no shorter side over `short_side` pixels.

    A killed run leaves whole images only; the same call goes on. Images that are missing or
    cannot be read are counted, and the run goes on.

    Raises:
        UsageError: `out` is the data set itself.
        DataError: `out` holds images of another reduction, or `root` reduced ones.
        OutputError: the disk is full or the place cannot be written.
    """
    root, out = Path(os.path.abspath(root)), Path(os.path.abspath(out))
    if out == root:
        raise UsageError("the copy must lie in another folder than the data set", path=out)
    reduction = Reduction(short_side)
    _check_folders(root, out, reduction)
    record = json.dumps(dataclasses.asdict(reduction), indent=2) + "\n"
    write_atomically(out / RECORD, record)  # before the first image
    for file in samples.files:
        _copy(file, out / file.relative_to(root))

    def work(path: Path) -> tuple[str, str]:
        try:
            return _one(path, out / path.relative_to(root), short_side), ""
        except ImageError as error:
            return "failed", error.reason
        finally:
            if on_image is not None:
                on_image()

    with ThreadPoolExecutor(workers or available_cores()) as pool:  # decoders free the GIL
        outcomes = list(pool.map(work, samples.path))
    count = Counter(outcome for outcome, _ in outcomes)
    failed = {
        str(path): reason
        for path, (outcome, reason) in zip(samples.path, outcomes, strict=True)
        if outcome == "failed"
    }
    return Downsized(count["reduced"], count["copied"], count["present"], failed)


def reduced(rgb: RGB, short_side: int) -> RGB:
    """Return an image whose shorter side has `short_side` pixels; a smaller one as it is."""
    height, width = rgb.shape[:2]
    if min(height, width) <= short_side:
        return rgb
    factor = short_side / min(height, width)
    size = (max(short_side, round(width * factor)), max(short_side, round(height * factor)))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS))


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
