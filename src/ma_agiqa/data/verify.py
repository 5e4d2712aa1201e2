"""A copy of a data set on disk: fetch it from the Hub, and tell whether it is complete and sound.

`download` fetches what the data set's entry names: interrupted downloads go on where they
stopped, and `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` work as everywhere. It does not
fetch from other places (those want a click on a licence or an account), or unpack archives.

`verify` changes nothing. Checked: the annotations (there, readable, as distributed where a
checksum is known, number of records, scores within the rating scale, deviations not negative,
names unique) and every image (there, decodes whole, of the size it should have). Images that
lie beside them and that no record names are listed, for they often mean a wrong folder; copies of
one image are told, for a split may part them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ma_agiqa.data.datasets import Dataset, load_known
from ma_agiqa.data.downsize import read_reduction
from ma_agiqa.data.samples import Samples
from ma_agiqa.errors import DataError, ImageError, UsageError, first_line
from ma_agiqa.hub import failures
from ma_agiqa.images import decode, is_image_path, read_bytes
from ma_agiqa.provenance import available_cores
from ma_agiqa.text import join_some
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


def download(info: Dataset, root: str | Path, *, revision: str | None = None) -> str:
    """Fetch a data set into `root`, which is made if need be; return the commit it has.

    Args:
        revision: branch, tag or commit of the Hub repository.

    Raises:
        UsageError: the data set is not on the Hub; the message says where it is instead.
        DataError: the Hub cannot be reached, or does not have the repository.
    """
    if info.hub is None:
        raise UsageError(
            f"{info.title} is not on the Hub; get it from {', '.join(info.download)}",
            remedy=f"then put into {root}: {'; '.join(info.unpack)}",
        )
    from huggingface_hub import HfApi, snapshot_download

    try:
        # Asked first because `snapshot_download` takes a folder that is there for the whole
        # data set when it cannot reach the Hub.
        commit = HfApi().dataset_info(info.hub.repository, revision=revision).sha
        snapshot_download(
            info.hub.repository,
            repo_type="dataset",
            revision=commit,
            local_dir=root,
            allow_patterns=list(info.hub.files),
        )
    except failures() as error:
        raise DataError(
            f"{info.hub.repository} could not be fetched from the Hub: {first_line(error)}",
            path=root,
            remedy="check the network or HF_HUB_OFFLINE, and run the same command again: it goes "
            f"on where it stopped; or get it from {info.download[0]}",
        ) from error
    return str(commit)


def verify(
    info: Dataset,
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
    root = Path(os.path.abspath(root))
    try:
        samples = load_known(info, root)
    except DataError as error:
        broken = Problem(error.path or str(root), error.reason, error.remedy or DOWNLOAD_AGAIN)
        return VerifyReport(info.records, problems=(broken,))
    present = [path for path in samples.path if path.is_file()]
    size_problem = _size_check(info, root)

    def check(path: Path) -> tuple[Problem | None, str | None]:
        digest = None
        try:
            data = read_bytes(path)
            digest = hashlib.sha256(data).hexdigest()
            reason = size_problem(path, decode(data, name=str(path)))
        except ImageError as error:
            reason = error.reason
        finally:
            if on_image is not None:
                on_image()
        problem = None if reason is None else Problem(str(path), reason, DOWNLOAD_AGAIN)
        return problem, digest

    with ThreadPoolExecutor(workers or available_cores()) as pool:  # decoders free the GIL
        checked = list(pool.map(check, present))
    damaged = [problem for problem, _ in checked if problem is not None]
    digests = {path: digest for path, (_, digest) in zip(present, checked, strict=True)}
    extra = _extra(samples)
    known = {Path(name).name for name in info.checksums}
    return VerifyReport(
        expected=_expected(info, samples),
        records=len(samples),
        missing=len(samples) - len(present),
        damaged=len(damaged),
        sound=len(present) - len(damaged),
        size=sum(path.stat().st_size for path in present),
        extra=len(extra),
        unchecked=tuple(path.name for path in samples.files if path.name not in known),
        caveats=(*samples.caveats, *_copies(samples, digests)),
        problems=(
            *_annotation_problems(info, samples),
            *_missing(info, samples, root),
            *_extra_problem(extra),
            *damaged,
        ),
    )


def _copies(samples: Samples, digests: Mapping[Path, str | None]) -> Iterator[str]:
    """Say which records have the same image, byte by byte: a split may part them."""
    named: dict[str, list[str]] = {}
    for name, path in zip(samples.name, samples.path, strict=True):
        if (digest := digests.get(path)) is not None:
            named.setdefault(digest, []).append(name)
    copies = [" = ".join(names) for names in named.values() if len(names) > 1]
    if copies:
        count = sum(len(names) - 1 for names in named.values())
        yield f"{count} images are copies of others: {join_some(copies)}"


def _expected(info: Dataset, samples: Samples) -> int:
    return min(len(samples), info.records) if info.partial else info.records


def _annotation_problems(info: Dataset, samples: Samples) -> Iterator[Problem]:
    """Yield what is wrong with annotations that could be read."""
    several = [str(file.parent) for file in samples.files]
    source = str(samples.files[0]) if len(several) == 1 else os.path.commonpath(several)
    expected = _expected(info, samples)
    if len(samples) != expected:
        reason = f"{len(samples)} records, expected {expected}"
        remedy = DOWNLOAD_AGAIN
        if samples.unread:
            reason += f"; not there or without scores: {', '.join(samples.unread)}"
            remedy = f"add them, see `ma-agiqa datasets show {info.name}`"
        yield Problem(source, reason, remedy)
    for path in samples.files:
        wanted = info.checksums.get(path.name)
        if wanted is not None and _checksum(path) != wanted:
            yield Problem(
                str(path),
                "not the annotation file as distributed",
                "figures from an edited file are not comparable: download it again",
            )
    for target, std in samples.std.items():
        wrong = int(np.sum(~np.isfinite(std) | (std < 0)))
        if wrong:
            reason = f"{wrong} of {len(std)} standard deviations of {target!r} are negative or none"
            yield Problem(source, reason, DOWNLOAD_AGAIN)


def _checksum(path: Path) -> str:
    """Return the sha256 of a file; of a text without byte order mark and with LF line ends."""
    content = path.read_bytes()
    if path.suffix == ".csv":
        content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    return hashlib.sha256(content).hexdigest()


def _missing(info: Dataset, samples: Samples, root: Path) -> Iterator[Problem]:
    """Yield how many images are not there, and how to get them."""
    missing = [
        name for name, path in zip(samples.name, samples.path, strict=True) if not path.is_file()
    ]
    if not missing:
        return
    archives = sorted(path.name for kind in ARCHIVES for path in root.glob(kind))
    if archives:
        remedy = f"unpack {join_some(archives)}, `ma-agiqa datasets show {info.name}` says where"
    elif info.hub is not None:
        remedy = f"`ma-agiqa datasets download {info.name} --root {root}` fetches what is missing"
    else:
        remedy = f"complete the download: {info.download[0]}"
    folders = sorted({str(path.parent) for path in samples.path})
    reason = f"{len(missing)} of {len(samples)} images missing: {join_some(missing)}"
    yield Problem(folders[0] if len(folders) == 1 else str(root), reason, remedy)


def _size_check(info: Dataset, root: Path) -> Callable[[Path, RGB], str | None]:
    """Return what says why a decoded image has a wrong size, or None."""
    reduction = read_reduction(root)

    def check(path: Path, rgb: RGB) -> str | None:
        height, width = rgb.shape[:2]
        if reduction is not None:
            side = reduction.short_side
            wrong = min(height, width) > side
            return f"shorter side over {side} pixels: not reduced" if wrong else None
        size = info.sizes.get(path.parent.relative_to(root).as_posix())
        if size is None or sorted(size) == sorted((width, height)):
            return None
        return f"{width} x {height} pixels, expected {size[0]} x {size[1]}"

    return check


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


def _extra_problem(extra: list[Path]) -> Iterator[Problem]:
    if extra:
        yield Problem(
            str(extra[0].parent),
            f"{len(extra)} images that no record names: {join_some([p.name for p in extra])}",
            "check that the folder is the right one, and remove them",
        )
