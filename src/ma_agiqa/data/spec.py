"""The words in which a data set is described; `registry.py` speaks them.

A data set is published as files in a folder, often in more than one form. A `Layout` is one
such form: which files, joined or stacked how, with which columns. Everything after that is
the same for all of them, so loading and verifying hold no knowledge of any one data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ma_agiqa.types import Scale

OFFICIAL = "official"
"""Column of the publisher's own sets, where a layout has it: training, validation, test."""


@dataclass(frozen=True)
class Target:
    """One human score of a data set.

    Attributes:
        column: of the mean opinion score.
        deviation_column: of the standard deviation over raters, if published.
        meaning: what raters were asked.
    """

    column: str
    deviation_column: str | None
    meaning: str


@dataclass(frozen=True)
class Source:
    """One annotation file.

    Attributes:
        files: names under the root by which it is known; the first that is there is read.
        rename: our name -> the file's, for columns whose name differs.
        header: names of the columns where the file has none.
        constant: column -> text, the same for every row.
        each, times: every row stands for `each` consecutive records, and the whole file for
            `times` rounds of them.
        optional: the layout also holds without it; in a stack, also where it has no scores.
    """

    files: tuple[str, ...]
    rename: Mapping[str, str] = field(default_factory=dict)
    header: tuple[str, ...] | None = None
    constant: Mapping[str, str] = field(default_factory=dict)
    each: int = 1
    times: int = 1
    optional: bool = False


@dataclass(frozen=True)
class Layout:
    """One published form of the annotations.

    Attributes:
        sources: the files.
        stacked: their rows follow one another; else their columns stand side by side.
        name: of a record, with columns in braces; `{row}` is its number counted from 0.
    """

    sources: tuple[Source, ...]
    stacked: bool = False
    name: str = "{name}"


@dataclass(frozen=True)
class Images:
    """One published place of the images.

    Attributes:
        path: under the root, with columns and groups in braces: `{folder}/{file}`.
        size: width and height that all of them have, in either order; None where they differ
            or nobody has measured.
        caveat: what a reader of a number on these must know; they are not the usual ones.
    """

    path: str
    size: tuple[int, int] | None = None
    caveat: str | None = None


@dataclass(frozen=True)
class Blocks:
    """What consecutively numbered records have in common: `size` of them share a value."""

    size: int
    values: tuple[str, ...]


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face Hub.

    Attributes:
        repository: owner/name.
        files: patterns of the files to fetch.
        then: what is left to do by hand, if anything.
    """

    repository: str
    files: tuple[str, ...]
    then: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetSpec:
    """What there is to know about a data set.

    Attributes:
        name, title: on the command line; in text.
        layouts: forms of the annotations; the first that is there is read.
        images: places of the images; the one that holds most of them counts.
        targets: by name; the first is the default.
        scale: nominal ends of every target.
        records: how many there are.
        splits: names that `splits.resolve` accepts and the literature uses -> what they are
            and where they come from.
        paper: what the split `paper` stands for.
        licence, citation, download: for people; the first address is the publisher's.
        unpack: what lies where under the root, for people.
        hub: where `datasets download` gets it, if anywhere.
        checksums: file -> sha256 as distributed, line ends of text as LF.
        groups: group -> column; those not in the layout at hand are left out.
        name_pattern: regular expression that a name matches whole; its named parts are
            groups too.
        numbers: of those, the ones that are numbers and what they stand for.
        photographs: taken with a camera, not generated from prompts.
    """

    name: str
    title: str
    layouts: tuple[Layout, ...]
    images: tuple[Images, ...]
    targets: Mapping[str, Target]
    scale: Scale
    records: int
    splits: Mapping[str, str]
    licence: str
    citation: str
    download: tuple[str, ...]
    unpack: tuple[str, ...]
    paper: str = "random-20"
    hub: Hub | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    name_pattern: str = r".+"
    numbers: Mapping[str, Blocks] = field(default_factory=dict)
    photographs: bool = False
