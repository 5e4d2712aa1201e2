"""Is a data set on disk complete and sound? Says what is missing or damaged, changes nothing.

Checked: the annotations (there, readable, as distributed where a checksum is known, number of
records, scores within the rating scale, deviations not negative, names unique) and every
image (there, decodes whole, of the size it should have). Images that lie beside them and
that no record names are counted and listed, for they often mean a wrong folder. Images are
decoded in threads because decoders release the interpreter.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ma_agiqa.data.layouts import Annotations, image_place, read_annotations, samples_of
from ma_agiqa.data.readers import number_column
from ma_agiqa.data.reduction import read_reduction
from ma_agiqa.data.samples import Samples
from ma_agiqa.data.spec import DatasetSpec
from ma_agiqa.errors import DataError, ImageError
from ma_agiqa.images import is_image_path, read_image
from ma_agiqa.text import some
from ma_agiqa.types import RGB

DOWNLOAD_AGAIN = "download it again"
ARCHIVES = ("*.zip", "*.7z", "*.rar", "*.tar", "*.tgz", "*.tar.gz")


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
        records: that the annotations hold; `expected` belong there.
        missing: images that records name and that are not there.
        damaged: images that are there and cannot be decoded or have a wrong size.
        sound: images that decode whole.
        size: bytes of all images that are there.
        extra: images beside them that no record names.
        unchecked: annotation files whose content nobody has published a checksum of here.
        caveats: what is not as usual, and yet no problem: images reduced on purpose.
        problems: one entry per thing to repair.
    """

    dataset: str
    root: str
    expected: int
    records: int = 0
    missing: int = 0
    damaged: int = 0
    sound: int = 0
    size: int = 0
    extra: int = 0
    unchecked: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

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

    Raises:
        MissingExtraError: the annotations are an Excel file, and what reads those is not
            installed.
    """
    try:
        annotations = read_annotations(spec, root)
        samples = samples_of(spec, annotations, root)
    except DataError as error:
        broken = Problem(error.path or str(root), error.reason, error.remedy or DOWNLOAD_AGAIN)
        return VerifyReport(spec.name, str(root), spec.records, problems=(broken,))
    present = [path for path in samples.path if path.is_file()]
    damaged = list(
        _damaged(
            present,
            _size_check(spec, annotations, samples, Path(root)),
            workers=workers or os.cpu_count() or 1,
            on_image=on_image,
        )
    )
    extra = _extra(samples)
    known = {Path(name).name for name in spec.checksums}
    return VerifyReport(
        dataset=spec.name,
        root=str(root),
        expected=spec.records,
        records=len(samples),
        missing=len(samples) - len(present),
        damaged=len(damaged),
        sound=len(present) - len(damaged),
        size=sum(path.stat().st_size for path in present),
        extra=len(extra),
        unchecked=tuple(path.name for path in annotations.files if path.name not in known),
        caveats=samples.caveats,
        problems=(
            *_annotation_problems(spec, annotations, samples),
            *_missing(spec, samples, Path(root)),
            *_extra_problem(extra),
            *damaged,
        ),
    )


def _annotation_problems(
    spec: DatasetSpec, annotations: Annotations, samples: Samples
) -> Iterator[Problem]:
    """Yield what is wrong with annotations that could be read."""
    if len(samples) != spec.records:
        reason = f"{len(samples)} records, expected {spec.records}"
        remedy = DOWNLOAD_AGAIN
        if annotations.left_out:
            files = ", ".join(annotations.left_out)
            reason += f"; not there or without scores: {files}"
            remedy = f"add them, see `ma-agiqa datasets show {spec.name}`"
        yield Problem(str(annotations.path), reason, remedy)
    for path in annotations.files:
        wanted = spec.checksums.get(path.name)
        if wanted is not None and _checksum(path) != wanted:
            yield Problem(
                str(path),
                "not the annotation file as distributed",
                "figures from an edited file are not comparable: download it again",
            )
    for target in spec.targets.values():
        column = target.deviation_column
        if column is None or column not in annotations.table.column_names:
            continue
        try:
            deviation = number_column(
                annotations.table, column, names=samples.name, source=annotations.path
            )
        except DataError as error:
            yield Problem(str(annotations.path), error.reason, error.remedy or DOWNLOAD_AGAIN)
            continue
        if (deviation < 0).any():
            reason = f"negative standard deviations in {column!r}"
            yield Problem(str(annotations.path), reason, DOWNLOAD_AGAIN)


def _checksum(path: Path) -> str:
    """Return the sha256 of a file; of a text without byte order mark and with LF line ends."""
    content = path.read_bytes()
    if path.suffix == ".csv":
        content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    return hashlib.sha256(content).hexdigest()


def _missing(spec: DatasetSpec, samples: Samples, root: Path) -> Iterator[Problem]:
    """Yield how many images are not there, and how to get them."""
    missing = [
        name for name, path in zip(samples.name, samples.path, strict=True) if not path.is_file()
    ]
    if not missing:
        return
    archives = sorted(path.name for kind in ARCHIVES for path in root.glob(kind))
    if archives:
        remedy = f"unpack {some(archives)}, `ma-agiqa datasets show {spec.name}` says where"
    elif spec.hub is not None:
        remedy = f"`ma-agiqa datasets download {spec.name} --root {root}` fetches what is missing"
    else:
        remedy = f"complete the download: {spec.download[0]}"
    folders = sorted({str(path.parent) for path in samples.path})
    reason = f"{len(missing)} of {len(samples)} images missing: {some(missing)}"
    yield Problem(folders[0] if len(folders) == 1 else str(root), reason, remedy)


def _size_check(
    spec: DatasetSpec, annotations: Annotations, samples: Samples, root: Path
) -> Callable[[RGB], str | None]:
    """Return what says why a decoded image has a wrong size, or None."""
    known = {"name": samples.name, **samples.groups}
    place, _ = image_place(spec, root, annotations.table, known, source=annotations.path)
    reduction = read_reduction(root)

    def check(rgb: RGB) -> str | None:
        height, width = rgb.shape[:2]
        if reduction is not None:
            side = reduction.short_side
            wrong = min(height, width) > side
            return f"shorter side over {side} pixels: not reduced" if wrong else None
        if place.size is None or sorted(place.size) == sorted((width, height)):
            return None
        wanted = " x ".join(map(str, place.size))
        return f"{width} x {height} pixels, expected {wanted}"

    return check


def _damaged(
    paths: Sequence[Path],
    size_check: Callable[[RGB], str | None],
    *,
    workers: int,
    on_image: Callable[[], None] | None,
) -> Iterator[Problem]:
    """Decode every image and yield those that fail, in the order of `paths`."""

    def check(path: Path) -> Problem | None:
        try:
            reason = size_check(read_image(path))
        except ImageError as error:
            reason = error.reason
        finally:
            if on_image is not None:
                on_image()
        return None if reason is None else Problem(str(path), reason, DOWNLOAD_AGAIN)

    with ThreadPoolExecutor(workers) as pool:
        yield from (problem for problem in pool.map(check, paths) if problem is not None)


def _extra(samples: Samples) -> list[Path]:
    """Return the images that lie beside those of the records and are none, sorted."""
    known = set(samples.path)
    folders = {path.parent for path in known if path.parent.is_dir()}
    return sorted(
        path
        for folder in folders
        for path in folder.iterdir()
        if path not in known and is_image_path(path) and path.is_file()
    )


def _extra_problem(extra: Sequence[Path]) -> Iterator[Problem]:
    if extra:
        yield Problem(
            str(extra[0].parent),
            f"{len(extra)} images that no record names: {some([path.name for path in extra])}",
            "check that the folder is the right one, and remove them",
        )
