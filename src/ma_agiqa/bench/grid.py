"""A benchmark as declared: models, data sets, splits, seeds; read from TOML, checked whole.

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
What this file does not do: look at images or stores (`material.py`), run anything (`runner.py`).
"""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ma_agiqa.bench.models import KINDS, AblationSpec, DirectorySpec, ModelSpec, TrainSpec
from ma_agiqa.data.samples import TableColumns
from ma_agiqa.errors import MissingExtraError, UsageError
from ma_agiqa.text import hint
from ma_agiqa.training.starts import STARTS, check_arguments

T = TypeVar("T")
IPCE = tuple(f"ipce-{number:02d}" for number in range(1, 11))


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

    @property
    def columns(self) -> TableColumns:
        """Of a table."""
        return TableColumns(self.image_column, self.score_column, self.prompt_column)


@dataclass(frozen=True)
class Grid:
    """A whole benchmark.

    Attributes:
        source: the TOML file.
        models: in the order of the table to be, ablations written out.
        part: of each split, on which everything is judged: `test` or `val`.
    """

    source: Path
    data: tuple[DataSpec, ...]
    models: tuple[ModelSpec, ...]
    title: str = "Benchmark"
    baseline: str | None = None
    seeds: tuple[int, ...] = (0,)
    resamples: int = 1000
    part: str = "test"
    cross: bool = False


@dataclass(frozen=True)
class _Top:
    data: tuple[dict[str, Any], ...]
    model: tuple[dict[str, Any], ...] = ()
    ablation: tuple[dict[str, Any], ...] = ()
    title: str = "Benchmark"
    baseline: str | None = None
    seeds: tuple[int, ...] = field(default=(0,))
    resamples: int = 1000
    part: str = "test"
    cross: bool = False


def read_grid(path: str | Path) -> Grid:
    """Read and check a grid.

    Raises:
        UsageError: the file cannot be read, or an entry is unknown, missing or of another type.
    """
    path = Path(path)
    top = build(_Top, _parse(path), where=str(path), folder=path.parent)
    data = tuple(_data_spec(entry, path) for entry in top.data)
    models: list[ModelSpec] = [_model_spec(entry, path) for entry in top.model]
    for number, entry in enumerate(top.ablation, start=1):
        where = f"{path}: ablation {number}"
        ablation = build(AblationSpec, entry, where=where, folder=path.parent)
        models += [_placed(row, path.parent) for row in ablation.models()]
    _check_names(path, data, models, top)
    return Grid(
        source=path,
        data=data,
        models=tuple(models),
        title=top.title,
        baseline=top.baseline,
        seeds=top.seeds,
        resamples=top.resamples,
        part=top.part,
        cross=top.cross,
    )


def _data_spec(entry: Mapping[str, Any], path: Path) -> DataSpec:
    spec = build(DataSpec, entry, where=f"{path}: data", folder=path.parent)
    data = spec.data
    if Path(data).suffix:  # a table, not a name of the registry
        data = str(path.parent / data)
    names = tuple(name for text in spec.splits for name in expand_split(text))
    if not names:
        raise UsageError(f"data {spec.data!r} has no splits", path=path)
    return dataclasses.replace(spec, data=data, splits=names, name=spec.name or Path(data).stem)


def _model_spec(entry: Mapping[str, Any], path: Path) -> ModelSpec:
    kind = entry.get("kind")
    where = f"{path}: model {entry.get('name', '')!r}"
    if not isinstance(kind, str) or kind not in KINDS:
        raise UsageError(f"{where}: no kind {kind!r}{hint(str(kind), KINDS, 'kinds are')}")
    rest = {key: value for key, value in entry.items() if key != "kind"}
    return _placed(build(KINDS[kind], rest, where=where, folder=path.parent), path.parent)


def _placed(spec: ModelSpec, folder: Path) -> ModelSpec:
    """Return a model with paths that start at `folder`, and with its splits written out."""
    if isinstance(spec, DirectorySpec):
        model, lmm = (
            str(folder / name) if name and (folder / name).is_dir() else name
            for name in (spec.model, spec.lmm)
        )
        return dataclasses.replace(spec, model=model or "", lmm=lmm)
    if isinstance(spec, TrainSpec):
        splits = tuple(name for text in spec.splits for name in expand_split(text))
        file = folder / spec.backbone
        backbone = str(file) if file.is_file() else spec.backbone
        return dataclasses.replace(spec, backbone=backbone, splits=splits)
    return spec


def expand_split(text: str) -> tuple[str, ...]:
    """Return the splits that `ipce` or a range such as `prompt-0..4` stands for."""
    if text == "ipce":
        return IPCE
    match = re.fullmatch(r"(\w+)-(\d+)\.\.(\d+)", text)
    if match is None:
        return (text,)
    kind, first, last = match[1], int(match[2]), int(match[3])
    width = len(match[2])
    return tuple(f"{kind}-{number:0{width}d}" for number in range(first, last + 1))


def _check_names(
    path: Path, data: tuple[DataSpec, ...], models: list[ModelSpec], top: _Top
) -> None:
    for what, names in (("data", [d.name for d in data]), ("model", [m.name for m in models])):
        if not names:
            raise UsageError(f"names no {what}", path=path, remedy=f"add a [[{what}]]")
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise UsageError(f"{what} named twice: {', '.join(repeated)}", path=path)
    if top.baseline is not None and top.baseline not in [model.name for model in models]:
        known = hint(top.baseline, [model.name for model in models], "models are")
        raise UsageError(f"baseline {top.baseline!r} is no model{known}", path=path)
    if not top.seeds or len(set(top.seeds)) < len(top.seeds):
        raise UsageError(f"seeds must be given once each, got {list(top.seeds)}", path=path)
    if top.part not in ("test", "val"):
        raise UsageError(f"part must be test or val, got {top.part!r}", path=path)
    if top.resamples < 100:
        raise UsageError(f"resamples must be at least 100, got {top.resamples}", path=path)
    for spec in models:
        if isinstance(spec, TrainSpec):
            spec.recipe_of()  # raises for an unknown network, recipe or setting
            check_arguments(STARTS[spec.model], spec.network)
            own = [split for one in data for split in one.splits]
            for split in spec.splits:
                if split not in own:
                    known = hint(split, own, "they have")
                    raise UsageError(
                        f"model {spec.name!r}: no data has the split {split!r}{known}", path=path
                    )


def build(cls: type[T], entry: Mapping[str, Any], *, where: str, folder: Path) -> T:
    """Build a dataclass from a TOML table, strictly; paths are taken from `folder`.

    Raises:
        UsageError: unknown or missing key, or a value of another type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in entry:
        if key not in fields:
            raise UsageError(f"{where}: unknown {key!r}{hint(key, fields, 'known are')}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in entry:
            raise UsageError(f"{where}: {name!r} is missing")
    hints = typing.get_type_hints(cls)
    values = {
        key: _value(hints[key], value, where=f"{where}: {key}", folder=folder)
        for key, value in entry.items()
    }
    return cls(**values)


def _value(wanted: Any, value: Any, *, where: str, folder: Path) -> Any:
    """Return a TOML value as the type wanted; a single value stands for a list of one."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        inner = next(a for a in arguments if a is not type(None))
        return _value(inner, value, where=where, folder=folder)
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_value(arguments[0], item, where=where, folder=folder) for item in items)
    if wanted is Path and isinstance(value, str):
        return folder / value
    kind = origin or wanted
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


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
