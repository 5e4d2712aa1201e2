"""Acting on scores: copy or move files, undo that, and write ratings beside pictures.

Nothing is ever deleted or overwritten, and no picture's own file is changed. What is done stands,
line by line, in `undo.jsonl` in the folder that files went to.

A rating goes into an XMP sidecar as `xmp:Rating`, 1 to 5 stars, one for each fifth of the
percentile. There are two ways to name sidecars: `adobe` (a.xmp) and `darktable` (a.jpg.xmp). A
rating that a person gave is left alone: one in the picture's file, one in a sidecar without our
mark, and one that was changed after we wrote it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from xml.etree import ElementTree

from ma_agiqa.errors import DataError, ImageError, OutputError, first_line
from ma_agiqa.files import write_atomically
from ma_agiqa.images import FORMATS, format_of, read_bytes
from ma_agiqa.metadata import parse_xmp, xmp_packet
from ma_agiqa.types import Row

RECORD = "undo.jsonl"

SCHEMES = ("adobe", "darktable")

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMP = "http://ns.adobe.com/xap/1.0/"
OURS = "https://ns.ma-agiqa.invalid/1.0/"
_RATING, _MARK, _SCORE = f"{{{XMP}}}Rating", f"{{{OURS}}}Rating", f"{{{OURS}}}Score"
_DESCRIPTION = f"{{{RDF}}}Description"
_EXIF_RATING = 0x4746
_EMPTY = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="' + RDF + '">'
    '<rdf:Description rdf:about=""/></rdf:RDF></x:xmpmeta>'
)


@dataclass(frozen=True)
class Step:
    """One file that goes from one place to another."""

    source: Path
    target: Path


def plan(paths: Iterable[str], folder: Path) -> list[Step]:
    """Return where files would go in a folder; equal names are kept apart by `-2`, `-3`.

    A file that lies there already stays where it is; one that is named twice goes once.
    """
    taken = {name.casefold() for name in os.listdir(folder)} if folder.is_dir() else set()
    steps = []
    for path in {os.path.abspath(path): Path(path) for path in paths}.values():
        if path.absolute().parent == folder.absolute():
            continue
        steps.append(Step(path, folder / free_name(path.name, taken)))
    return steps


def free_name(name: str, taken: set[str]) -> str:
    """Return the name, or it with `-2`, `-3` where another file has it, and note it as taken.

    >>> taken = {"fox.png"}
    >>> free_name("Fox.png", taken), free_name("fox.png", taken)
    ('Fox-2.png', 'fox-3.png')
    """
    path, free, number = Path(name), name, 1
    while free.casefold() in taken:
        number += 1
        free = f"{path.stem}-{number}{path.suffix}"
    taken.add(free.casefold())
    return free


def carry_out(steps: Sequence[Step], folder: Path, *, move: bool) -> Iterator[Step]:
    """Copy or move files, and yield each step once it is done.

    Raises:
        OutputError: a file cannot be written; what was done before stands in the record.
    """
    done = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / RECORD).open("a", encoding="utf-8") as record:
            for step in steps:
                line = {
                    "moved" if move else "copied": os.fspath(step.source.absolute()),
                    "to": os.fspath(step.target.absolute()),
                }
                record.write(json.dumps(line) + "\n")
                record.flush()
                if step.target.exists():
                    raise FileExistsError(17, "a file has appeared there", str(step.target))
                if move:
                    shutil.move(step.source, step.target)
                else:
                    shutil.copy2(step.source, step.target)
                done = True
                yield step
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            path=error.filename or folder,
            remedy=f"what was done stands in {folder / RECORD}"
            if done
            else "choose another folder",
        ) from error


def undo(record: Path) -> tuple[list[Step], list[Step]]:
    """Move files back, the last one first; return what was done, and what could not be.

    Copies stay: their originals never left. What was done leaves the record.

    Raises:
        DataError: the record is missing or damaged.
        OutputError: it cannot be written.
    """
    done, left = [], []
    told = _told(record)
    for step in filter(None, reversed(told.values())):
        try:
            if step.target.exists() or not step.source.exists():
                raise FileExistsError
            step.target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(step.source, step.target)
            done.append(step)
        except OSError:
            left.append(step)
    rest = (f"{line}\n" for line, step in told.items() if step not in done)
    write_atomically(record, "".join(rest))
    return done, left


def _told(record: Path) -> dict[str, Step | None]:
    """Return the lines of a record, each with the move that it tells of; None of a copy."""
    try:
        lines = record.read_text(encoding="utf-8").splitlines()
        told = {line: json.loads(line) for line in lines}
        return {
            line: None if "copied" in one else Step(Path(one["to"]), Path(one["moved"]))
            for line, one in told.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"is no record of moved files: {first_line(error)}",
            path=record,
            remedy=f"it is called {RECORD}, in the folder that files went to",
        ) from error


def stars(percentile: float) -> int:
    """Return 1 to 5, one for each fifth of the percentile.

    >>> [stars(percentile) for percentile in (0, 20, 21, 100)]
    [1, 1, 2, 5]
    """
    return min(5, max(1, math.ceil(percentile / 20)))


def sidecars(path: Path, schemes: Sequence[str]) -> list[Path]:
    """Return the names of a picture's sidecars under some of `SCHEMES`.

    >>> [one.name for one in sidecars(Path("fox.png"), SCHEMES)]
    ['fox.xmp', 'fox.png.xmp']
    """
    names = {"adobe": path.with_suffix(".xmp"), "darktable": path.with_name(path.name + ".xmp")}
    return [names[scheme] for scheme in schemes]


def write_rating(row: Row, schemes: Sequence[str]) -> str | None:
    """Write the rating of a scored picture into its sidecars.

    Returns:
        Why nothing was written, or None.

    Raises:
        ImageError: the picture cannot be read.
        OutputError: a sidecar cannot be written.
    """
    path = Path(row["path"])
    if row["percentile"] is None:
        return "has no percentile"
    if _rated_inside(read_bytes(path)):
        return "its file holds a rating"
    texts = {}
    for place in sidecars(path, schemes):
        try:
            text = place.read_text(encoding="utf-8") if place.exists() else _EMPTY
            changed = _with_rating(text, stars(row["percentile"]), row["score"])
        except (OSError, ValueError, ElementTree.ParseError) as error:
            return f"{place.name} cannot be read: {first_line(error)}"
        if changed is None:
            return f"{place.name} holds a rating of somebody's own"
        texts[place] = changed
    for place, text in texts.items():
        write_atomically(place, text)
    return None


def _with_rating(text: str, rating: int, score: float) -> str | None:
    """Return a sidecar with a rating; None where a person gave one."""
    if "<!" in text:  # entities can grow without bound
        raise ValueError("it declares entities")
    for _, (prefix, address) in ElementTree.iterparse(StringIO(text), events=["start-ns"]):
        with suppress(ValueError):  # prefixes such as ns0 belong to ElementTree
            ElementTree.register_namespace(prefix, address)
    ElementTree.register_namespace("xmp", XMP)
    ElementTree.register_namespace("maagiqa", OURS)
    root = ElementTree.fromstring(text)
    described = list(root.iter(_DESCRIPTION))
    if not described:
        raise ValueError("it is no XMP")
    for one in described:
        own = one.get(_RATING) or one.findtext(_RATING)
        if own not in (None, "", "0") and own != one.get(_MARK):
            return None
        for element in one.findall(_RATING):
            one.remove(element)
    described[0].attrib.update({_RATING: str(rating), _MARK: str(rating), _SCORE: f"{score:.4f}"})
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _rated_inside(data: bytes) -> bool:
    """Say whether a picture's own file holds a rating; what cannot be read holds none."""
    kind = format_of(data)
    if kind not in FORMATS:
        raise ImageError("is not an image")
    with suppress(Exception):  # files of strangers, see `metadata.py`
        image = FORMATS[kind].decoder(BytesIO(data))
        if image.getexif().get(_EXIF_RATING):
            return True
        root = parse_xmp(xmp_packet(image))
        if root is not None:
            return any(
                (one.get(_RATING) or one.findtext(_RATING) or "0") != "0"
                for one in root.iter(_DESCRIPTION)
            )
    return False
