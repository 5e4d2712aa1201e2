"""Is a data set on disk complete and sound? Says what is missing or damaged, changes nothing.

Checked: the annotation file (there, readable, as distributed, number of records, scores
within the rating scale, deviations not negative, names unique) and every image (there,
decodes whole). Images in the folder that no record names are counted and listed, for they
often mean a wrong folder. Images are decoded in threads because decoders release the
interpreter.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ma_agiqa.data.registry import DatasetSpec, load_spec
from ma_agiqa.data.samples import Samples, number_column, read_table, some
from ma_agiqa.errors import DataError, ImageError
from ma_agiqa.images import is_image_path, read_image

DOWNLOAD_AGAIN = "download it again"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the file, why, and what to do."""

    file: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class VerifyReport:
    """What was found under a root.

    Attributes:
        records: rows of the annotation file; `expected` of them belong there.
        missing: images that records name and that are not there.
        damaged: images that are there and cannot be decoded, empty ones included.
        sound: images that decode whole.
        extra: images in the folder that no record names.
        problems: one entry per thing to repair.
    """

    dataset: str
    root: str
    expected: int
    records: int
    missing: int
    damaged: int
    sound: int
    extra: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(
    spec: DatasetSpec,
    root: str | Path,
    *,
    workers: int | None = None,
    on_image: Callable[[], None] | None = None,
) -> VerifyReport:
    """Check a data set under `root`.

    Args:
        workers: decoding threads; one per core when None.
        on_image: called after each image, for a progress bar.
    """
    source = Path(root) / spec.annotations
    try:
        samples = load_spec(spec, root)
    except DataError as error:
        broken = Problem(error.path or str(source), error.reason, error.remedy or DOWNLOAD_AGAIN)
        return VerifyReport(spec.name, str(root), spec.records, 0, 0, 0, 0, 0, (broken,))
    problems = list(_annotation_problems(spec, samples, source))
    missing = [path for path in samples.path if not path.is_file()]
    present = [path for path in samples.path if path.is_file()]
    problems += [Problem(str(path), "missing", DOWNLOAD_AGAIN) for path in missing]
    damaged = list(_damaged(present, workers=workers or os.cpu_count() or 1, on_image=on_image))
    extra = _extra(Path(root) / spec.images, samples)
    if extra:
        problems.append(
            Problem(
                str(Path(root) / spec.images),
                f"{len(extra)} images that no record names: {some(extra)}",
                "check that the folder is the right one, and remove them",
            )
        )
    return VerifyReport(
        dataset=spec.name,
        root=str(root),
        expected=spec.records,
        records=len(samples),
        missing=len(missing),
        damaged=len(damaged),
        sound=len(present) - len(damaged),
        extra=len(extra),
        problems=(*problems, *damaged),
    )


def _annotation_problems(spec: DatasetSpec, samples: Samples, source: Path) -> Iterator[Problem]:
    """Yield what is wrong with an annotation file that could be read."""
    if len(samples) != spec.records:
        reason = f"{len(samples)} records, expected {spec.records}"
        yield Problem(str(source), reason, DOWNLOAD_AGAIN)
    text = source.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    if hashlib.sha256(text).hexdigest() != spec.annotations_sha256:
        yield Problem(
            str(source),
            "not the annotation file as distributed",
            "figures from an edited file are not comparable: download it again",
        )
    low, high = spec.scale.low, spec.scale.high
    for name, scores in samples.targets.items():
        outside = np.flatnonzero((scores < low) | (scores > high))
        if len(outside):
            worst = [f"{samples.name[i]} ({scores[i]:g})" for i in outside]
            reason = f"{len(outside)} {name} scores outside {low:g} to {high:g}: {some(worst)}"
            yield Problem(str(source), reason, "check the scale of the file")
    table = read_table(source)
    for target in spec.targets.values():
        if target.deviation_column is None:
            continue
        try:
            deviation = number_column(
                table, target.deviation_column, names=samples.name, source=source
            )
        except DataError as error:
            yield Problem(str(source), error.reason, error.remedy or DOWNLOAD_AGAIN)
            continue
        if (deviation < 0).any():
            reason = f"negative standard deviations in {target.deviation_column!r}"
            yield Problem(str(source), reason, DOWNLOAD_AGAIN)


def _damaged(
    paths: list[Path], *, workers: int, on_image: Callable[[], None] | None
) -> Iterator[Problem]:
    """Decode every image and yield those that fail, in the order of `paths`."""

    def check(path: Path) -> Problem | None:
        try:
            read_image(path)
        except ImageError as error:
            return Problem(str(path), error.reason, DOWNLOAD_AGAIN)
        finally:
            if on_image is not None:
                on_image()
        return None

    with ThreadPoolExecutor(workers) as pool:
        yield from (problem for problem in pool.map(check, paths) if problem is not None)


def _extra(folder: Path, samples: Samples) -> list[str]:
    """Return the images under `folder` that no record names, sorted."""
    known = set(samples.path)
    base = Path(os.path.abspath(folder))
    return sorted(
        str(path.relative_to(base))
        for path in base.rglob("*")
        if path not in known and is_image_path(path) and path.is_file()
    )
