"""The data sets this package knows, as a literal table.

One entry says all that differs between data sets: where files lie under the root, what the
columns mean, what a file name tells, the rating scale, licence and origin. Loading and
verifying read it and hold no knowledge of their own.

Source: AGIQA-3K, Li et al. 2023 (arXiv 2306.04717), its repository and annotation file.
Images and annotations are not part of this package; `download` says where they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ma_agiqa.data.samples import (
    Samples,
    hint,
    image_paths,
    load_table,
    number_column,
    read_table,
    some,
    text_column,
)
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.types import Scale


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
class DatasetSpec:
    """What there is to know about a data set.

    Attributes:
        name, title: on the command line; in text.
        annotations, images: file and folder under the root.
        image_column: file name of the image, unique.
        targets: by name; the first is the default.
        scale: nominal ends of every target.
        group_columns: group -> column.
        name_pattern: regular expression that a file name matches whole; its named parts are
            groups too.
        records: how many there are.
        annotations_sha256: of the annotation file as distributed, line ends as LF.
        splits: names that `splits.resolve` accepts and the literature uses.
        licence, citation, download: for people.
    """

    name: str
    title: str
    annotations: str
    images: str
    image_column: str
    targets: Mapping[str, Target]
    scale: Scale
    records: int
    annotations_sha256: str
    splits: tuple[str, ...]
    licence: str
    citation: str
    download: tuple[str, ...]
    group_columns: Mapping[str, str] = field(default_factory=dict)
    name_pattern: str = r".+"


@dataclass(frozen=True)
class TableColumns:
    """Which columns of a CSV or Parquet table hold what; a known data set has its own.

    Attributes:
        image: path of the image, relative to the root, or absolute.
        score: the human score; the target is named as this column.
        prompt: the text that generated the image, or None; splits by prompt need it.
    """

    image: str = "image"
    score: str = "score"
    prompt: str | None = None


DATASETS: dict[str, DatasetSpec] = {
    "agiqa-3k": DatasetSpec(
        name="agiqa-3k",
        title="AGIQA-3K",
        annotations="data.csv",
        images="images",
        image_column="name",
        targets={
            "quality": Target("mos_quality", "std_quality", "how good the picture looks"),
            "alignment": Target("mos_align", "std_align", "how well it shows what was asked for"),
        },
        scale=Scale(0, 5),
        records=2982,
        annotations_sha256="311b9c0dc6d8e203fb4b27e070fca6cde87fa3c0dbfb880e197ee1304bba4828",
        splits=("paper", *(f"ipce-{number:02d}" for number in range(1, 11))),
        licence="MIT, (c) 2023 lcysyzxdxc",
        citation=(
            "C. Li et al., AGIQA-3K: An Open Database for AI-Generated Image Quality "
            "Assessment, arXiv:2306.04717"
        ),
        download=(
            "https://github.com/lcysyzxdxc/AGIQA-3k-Database",
            "https://huggingface.co/datasets/strawhat/agiqa-3k",
        ),
        group_columns={"prompt": "prompt"},
        name_pattern=r"(?P<generator>.+)_(?P<setting>[^_]+)_\d{3}\.jpg",
    ),
}


def get(name: str) -> DatasetSpec:
    """Return the entry called `name`.

    Raises:
        UsageError: unknown; the message lists the known ones and close matches.
    """
    if name not in DATASETS:
        raise UsageError(
            f"unknown data set {name!r}{hint(name, DATASETS, 'known are')}",
            remedy="or give the path of a CSV or Parquet table",
        )
    return DATASETS[name]


def load(data: str | Path, root: str | Path, columns: TableColumns | None = None) -> Samples:
    """Read a known data set by name, or any table by its path.

    Args:
        data: a name in `DATASETS`, or a CSV or Parquet file.
        root: folder of the data set; for a table, the folder its image paths start from.
        columns: of a table.

    Raises:
        UsageError: neither a known name nor a file.
        DataError: the annotation file is missing, damaged or inconsistent.
    """
    if str(data) in DATASETS:
        return load_spec(DATASETS[str(data)], root)
    if not Path(data).suffix and not Path(data).exists():
        get(str(data))  # a name, then, and an unknown one
    columns = columns or TableColumns()
    return load_table(
        data,
        root=root,
        image_column=columns.image,
        score_column=columns.score,
        group_columns={} if columns.prompt is None else {"prompt": columns.prompt},
    )


def load_spec(spec: DatasetSpec, root: str | Path) -> Samples:
    """Read a known data set under `root`; images need not be there.

    Raises:
        DataError: the annotation file is missing, damaged or inconsistent.
    """
    source = Path(root) / spec.annotations
    if not source.is_file():
        raise DataError(
            f"the annotation file of {spec.title} is not there",
            path=source,
            remedy=f"give its folder as root; to download, see {spec.download[0]}",
        )
    table = read_table(source)
    names = text_column(table, spec.image_column, source=source, allow_empty=False)
    groups = _groups_in_names(spec, names, source=source)
    for group, column in spec.group_columns.items():
        groups[group] = text_column(table, column, source=source)
    return Samples(
        name=names,
        path=image_paths(Path(root) / spec.images, names),
        targets={
            name: number_column(table, target.column, names=names, source=source)
            for name, target in spec.targets.items()
        },
        groups=groups,
        dataset=spec.name,
        scale=spec.scale,
    )


def _groups_in_names(
    spec: DatasetSpec, names: Sequence[str], *, source: Path
) -> dict[str, tuple[str, ...]]:
    """Return what the file names tell: group -> one text per name."""
    matches = [re.fullmatch(spec.name_pattern, name) for name in names]
    foreign = [name for name, match in zip(names, matches, strict=True) if match is None]
    if foreign:
        raise DataError(
            f"{len(foreign)} names are not of the form {spec.name_pattern}: {some(foreign)}",
            path=source,
        )
    found = [match.groupdict() for match in matches if match is not None]
    return {group: tuple(parts[group] for parts in found) for group in found[0]}
