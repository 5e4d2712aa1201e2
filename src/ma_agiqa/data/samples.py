"""Images and their human scores, in columns; made by hand or read from any table.

Shapes: n records.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ma_agiqa.data.readers import number_column, read_table, text_column
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.text import hint, some
from ma_agiqa.types import Scale


@dataclass(frozen=True, eq=False)
class Samples:
    """n records of one data set; row i of every column is one image.

    Attributes:
        name: unique key of each record, the file name as the data set gives it.
        path: absolute path of each image; it need not exist, see `require_images`.
        targets: human scores, name -> float64 (n,), finite; the first one is the default.
        groups: what records have in common, e.g. generator, setting, prompt -> (n,) texts.
        dataset: name of the data set.
        scale: nominal ends of every target; None where the source does not say.
        official_set: which set the publisher put each record in, training, validation or test
            -> (n,) texts; None where there is no such division.
        paper: what the split name `paper` stands for here, see `splits`.
        photographs: these were taken with a camera, so there are no prompts to share.
        caveats: what a reader of a number on these records must know, e.g. images reduced.
    """

    name: tuple[str, ...]
    path: tuple[Path, ...]
    targets: Mapping[str, NDArray[np.float64]]
    groups: Mapping[str, tuple[str, ...]]
    dataset: str
    scale: Scale | None = None
    official_set: tuple[str, ...] | None = None
    paper: str = "random-20"
    photographs: bool = False
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns = {"path": self.path, **self.targets, **self.groups}
        if self.official_set is not None:
            columns["official_set"] = self.official_set
        lengths = {key: len(column) for key, column in columns.items() if len(column) != len(self)}
        if lengths:
            raise DataError(f"{len(self)} names but columns of other lengths: {lengths}")
        if not self.targets:
            raise DataError(f"the data set {self.dataset} has no target")
        repeated = [name for name, count in Counter(self.name).items() if count > 1]
        if repeated:
            raise DataError(
                f"{some(repeated)} occur more than once in {self.dataset}",
                remedy="a record's name must be unique: keep one row per image",
            )

    def __len__(self) -> int:
        return len(self.name)

    def target(self, name: str | None = None) -> NDArray[np.float64]:
        """Return one column of human scores, shape (n,); the default one when None.

        Raises:
            UsageError: no such target.
        """
        wanted = next(iter(self.targets)) if name is None else name
        if wanted not in self.targets:
            raise UsageError(
                f"{self.dataset} has no target {wanted!r}{hint(wanted, self.targets, 'it has')}"
            )
        return self.targets[wanted]

    def subset(self, indices: ArrayLike) -> Samples:
        """Return the records at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        official = self.official_set
        return replace(
            self,
            name=tuple(self.name[i] for i in rows),
            path=tuple(self.path[i] for i in rows),
            targets={key: column[rows] for key, column in self.targets.items()},
            groups={key: tuple(column[i] for i in rows) for key, column in self.groups.items()},
            official_set=None if official is None else tuple(official[i] for i in rows),
        )


def load_table(
    path: str | Path,
    *,
    root: str | Path,
    image_column: str,
    score_column: str,
    group_columns: Mapping[str, str] | None = None,
) -> Samples:
    """Read a table with an image and a score column; the target is named as its column.

    Args:
        root: folder that image paths in the table are relative to; absolute ones stay.
        group_columns: group -> column.

    Raises:
        DataError: no such file, no such column, no rows, a score that is no finite number,
            a record without an image, a name that occurs twice.
    """
    table = read_table(path)
    names = text_column(table, image_column, source=path, allow_empty=False)
    return Samples(
        name=names,
        path=image_paths(root, names),
        targets={score_column: number_column(table, score_column, names=names, source=path)},
        groups={
            group: text_column(table, column, source=path)
            for group, column in (group_columns or {}).items()
        },
        dataset=Path(path).stem,
    )


def image_paths(root: str | Path, names: Iterable[str]) -> tuple[Path, ...]:
    """Return the absolute path of each image named relative to `root`."""
    base = Path(os.path.abspath(root))
    return tuple(base / name for name in names)


def require_images(samples: Samples) -> None:
    """Raise DataError when images are missing, naming the first few and how many."""
    missing = [str(path) for path in samples.path if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(samples)} images of {samples.dataset} are missing: "
            f"{some(missing)}",
            remedy="check the root folder, or complete the download",
        )
