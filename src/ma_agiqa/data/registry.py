"""A data set by its name, or any table by its path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ma_agiqa.data.known import DATASETS
from ma_agiqa.data.layouts import load_spec
from ma_agiqa.data.samples import Samples, load_table
from ma_agiqa.data.spec import DatasetSpec
from ma_agiqa.errors import UsageError
from ma_agiqa.text import hint

__all__ = ["DATASETS", "TableColumns", "get", "load"]


@dataclass(frozen=True)
class TableColumns:
    """Which columns of a table of one's own hold what; a known data set has its own.

    Attributes:
        image: path of the image, relative to the root, or absolute.
        score: the human score; the target is named as this column.
        prompt: the text that generated the image, or None; splits by prompt need it.
    """

    image: str = "image"
    score: str = "score"
    prompt: str | None = None


def get(name: str) -> DatasetSpec:
    """Return the entry called `name`.

    Raises:
        UsageError: unknown; the message lists the known ones and close matches.
    """
    if name not in DATASETS:
        raise UsageError(
            f"unknown data set {name!r}{hint(name, DATASETS, 'known are')}",
            remedy="or give the path of a CSV, Parquet or Excel table",
        )
    return DATASETS[name]


def load(data: str | Path, root: str | Path, columns: TableColumns | None = None) -> Samples:
    """Read a known data set by name, or any table by its path.

    Args:
        data: a name in `DATASETS`, or a CSV, Parquet or Excel file.
        root: folder of the data set; for a table, the folder its image paths start from.
        columns: of a table.

    Raises:
        UsageError: neither a known name nor a file.
        DataError: the annotation file is missing, damaged or inconsistent.
        MissingExtraError: it is an Excel file, and what reads those is not installed.
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
