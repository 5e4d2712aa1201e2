"""A benchmark as declared: models, data sets, splits and seeds; read from TOML, strictly.

    title = "..."                 of the tables
    baseline = "name of a model"  against which every other is tested; optional
    seeds = [0, 1, 2]             of trainings; other kinds do not depend on one
    resamples = 1000              of every bootstrap
    part = "test"                 "val" to choose between models without a look at the test part
    cross = true                  also judge what learned on one data set on the others

    [[data]]       data = name or table, root, splits; optional name, target, *_column
    [[model]]      name, kind, and the arguments of that kind
    [[ablation]]   name, store and the other arguments of kind "train": one model per row

Paths are relative to the TOML file. `ipce` stands for the ten published lists, `prompt-0..4`
for five seeds. Unknown names anywhere are errors before any work.
What this file does not do: know the kinds (`models.py`) or run anything (`run.py`).
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ma_agiqa.bench.job import LoadedDataset, ModelSpec, Reader, expand_splits, placed_data
from ma_agiqa.bench.models import KINDS, AblationSpec
from ma_agiqa.config import from_dict
from ma_agiqa.data import splits
from ma_agiqa.data.samples import TableColumns
from ma_agiqa.errors import MissingExtraError, UsageError
from ma_agiqa.text import did_you_mean


@dataclass(frozen=True)
class DataSpec:
    """One data set of the grid.

    Attributes:
        data: name in the registry, or a CSV, Parquet or Excel table.
        splits: as `splits.resolve` names them, ranges written out.
        name: what results call it; `data` when not given.
        target: human score; the data set's own when None.
    """

    data: str
    root: Path
    splits: tuple[str, ...]
    name: str = ""
    target: str | None = None
    image_column: str = "image"
    score_column: str = "score"
    prompt_column: str | None = None

    def placed(self, folder: Path) -> DataSpec:
        """Return it with the path of a table starting at `folder`, and its splits written out."""
        data = placed_data(self.data, folder)
        name = self.name or Path(data).stem
        return dataclasses.replace(self, data=data, name=name, splits=expand_splits(self.splits))

    def load(self, part: str, reader: Reader) -> LoadedDataset:
        """Read it, to judge models on one part of each split.

        Raises:
            UsageError: unknown data set, split or target.
            DataError, ImageError: something is missing or damaged.
        """
        columns = TableColumns(self.image_column, self.score_column, self.prompt_column)
        samples = reader.samples(self.data, self.root, columns)
        target = self.target or next(iter(samples.targets))
        return LoadedDataset(
            name=self.name,
            data=self.data,
            root=self.root,
            columns=columns,
            samples=samples,
            target=target,
            splits={name: splits.resolve(name, samples, self.root) for name in self.splits},
            part=part,
            digest=reader.digest(samples, target),
        )


@dataclass(frozen=True)
class Grid:
    """A whole benchmark; the fields are the keys of its TOML file.

    Attributes:
        model: in the order of the table to be; `read_grid` appends the rows of ablations.
        part: of each split, on which everything is judged: `test` or `val`.
    """

    data: tuple[DataSpec, ...]
    model: tuple[ModelSpec, ...] = ()
    ablation: tuple[AblationSpec, ...] = ()
    title: str = "Benchmark"
    baseline: str | None = None
    seeds: tuple[int, ...] = (0,)
    resamples: int = 1000
    part: str = "test"
    cross: bool = False


def read_grid(path: str | Path) -> Grid:
    """Read and check a grid.

    Raises:
        UsageError: the file cannot be read, or an entry is unknown, missing or of another type.
        ModelError: the arguments of a network do not fit.
    """
    path = Path(path)
    file, folder = _parse(path), path.parent
    tables = file.get("model", [])
    file["model"] = [_model(t, path) for t in (tables if isinstance(tables, list) else [tables])]
    grid = from_dict(Grid, file, source=str(path), error=UsageError, folder=folder)
    rows = [row for ablation in grid.ablation for row in ablation.models()]
    grid = dataclasses.replace(
        grid,
        data=tuple(data.placed(folder) for data in grid.data),
        model=tuple(model.placed(folder) for model in (*grid.model, *rows)),
    )
    _check(grid, path)
    return grid


def _model(table: Any, path: Path) -> ModelSpec:
    """Decode a model as the dataclass of its kind."""
    if not isinstance(table, dict):
        raise UsageError(f"model: expected a table, got {table!r}", path=path)
    where, kind = f"model {table.get('name', '')!r}", table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        known = did_you_mean(str(kind), KINDS, "kinds are")
        raise UsageError(f"{where}: no kind {kind!r}{known}", path=path)
    rest = {key: value for key, value in table.items() if key != "kind"}
    source = f"{path}: {where}"
    return from_dict(KINDS[kind], rest, source=source, error=UsageError, folder=path.parent)


def _check(grid: Grid, path: Path) -> None:
    models = [model.name for model in grid.model]
    for what, names in (("data", [data.name for data in grid.data]), ("model", models)):
        if not names:
            raise UsageError(f"names no {what}", path=path, remedy=f"add a [[{what}]]")
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise UsageError(f"{what} named twice: {', '.join(repeated)}", path=path)
    for data in grid.data:
        if not data.splits:
            raise UsageError(f"data {data.name!r} has no splits", path=path)
    if grid.baseline is not None and grid.baseline not in models:
        known = did_you_mean(grid.baseline, models, "models are")
        raise UsageError(f"baseline {grid.baseline!r} is no model{known}", path=path)
    if not grid.seeds or len(set(grid.seeds)) < len(grid.seeds):
        raise UsageError(f"seeds must be given once each, got {list(grid.seeds)}", path=path)
    if grid.part not in ("test", "val"):
        raise UsageError(f"part must be test or val, got {grid.part!r}", path=path)
    if grid.resamples < 100:
        raise UsageError(f"resamples must be at least 100, got {grid.resamples}", path=path)
    for model in grid.model:
        model.check([split for data in grid.data for split in data.splits])


def _parse(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise MissingExtraError("tomli", "paper") from error
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", path=path) from error
    except ValueError as error:  # decoding errors of both kinds are ValueErrors
        raise UsageError(f"cannot be read as TOML: {error}", path=path) from error
