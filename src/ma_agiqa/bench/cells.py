"""One cell of the grid: a model on one split of one data set with one seed.

A finished cell is one JSON file, written whole. Its name and content carry the settings and a
content hash of all it was made of; whatever differs is another cell. Predictions are in it, so
that models can be compared image by image; human scores are not, they belong to the data set.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ma_agiqa.bench.grid import Grid
from ma_agiqa.bench.material import Material
from ma_agiqa.bench.models import ModelSpec, ScoresSpec, TrainSpec
from ma_agiqa.evaluation.report import EvaluationReport, without_nan
from ma_agiqa.files import write_atomically
from ma_agiqa.version import __version__

FOLDER = "cells"


@dataclass(frozen=True, eq=False)
class Cell:
    """What is to be done.

    Attributes:
        seed: of the training; None where nothing depends on one.
        others: data sets it is judged on besides its own, on their first split.
        settings: all that its result depends on, as plain data.
    """

    model: ModelSpec
    data: Material
    split: str
    seed: int | None
    others: tuple[Material, ...]
    settings: dict[str, Any]

    @property
    def title(self) -> str:
        """For people."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.model.name} on {self.data.name} {self.split}{seed}"

    @property
    def key(self) -> str:
        """File name: readable, and different whenever a setting differs."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        readable = re.sub(r"[^a-zA-Z0-9.]+", "-", self.title).strip("-").lower()[:80]
        return f"{readable}-{digest[:12]}"


@dataclass(frozen=True, eq=False)
class Judgement:
    """A model on the judged part of one split; `report` is as `EvaluationReport.to_dict`."""

    data: str
    split: str
    report: Mapping[str, Any]
    names: tuple[str, ...]
    pred: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a cell: judgements, its own split first, or an error.

    Attributes:
        detail: what else there is to know, such as a probe's strength.
    """

    cell: Cell
    judgements: tuple[Judgement, ...]
    error: str | None
    seconds: float
    detail: Mapping[str, Any]


def cells_of(grid: Grid, materials: Sequence[Material], digests: Mapping[str, str]) -> list[Cell]:
    """Return the cells in the order of the grid."""
    return [
        _cell(grid, model, data, split, seed, digests[model.name], materials)
        for model in grid.models
        for data in materials
        if not isinstance(model, ScoresSpec) or model.data in (None, data.name)
        for split in data.splits
        if not isinstance(model, TrainSpec) or split in (model.splits or data.splits)
        for seed in (grid.seeds if isinstance(model, TrainSpec) else (None,))
    ]


def _cell(
    grid: Grid,
    model: ModelSpec,
    data: Material,
    split: str,
    seed: int | None,
    digest: str,
    materials: Sequence[Material],
) -> Cell:
    crossing = grid.cross and model.learns
    others = tuple(other for other in materials if crossing and other is not data)
    settings = {
        "kind": model.kind,
        "arguments": {
            k: _plain(v)
            for k, v in dataclasses.asdict(model).items()
            if k not in ("name", "splits")
        },
        "content": digest,
        "data": data.digest,
        "split": split,
        "seed": seed,
        "resamples": grid.resamples,
        "others": [[other.name, other.digest, next(iter(other.splits))] for other in others],
        "version": __version__,
    }
    if grid.part != "test":
        settings["part"] = grid.part
    return Cell(model, data, split, seed, others, settings)


def judgement(data: Material, report: EvaluationReport) -> Judgement:
    """Return what is kept of a report."""
    return Judgement(data.name, report.split, report.to_dict(), report.names, report.pred)


def read(folder: Path, cell: Cell) -> Result | None:
    """Return the finished cell of these settings; None when it has to run."""
    path = folder / FOLDER / f"{cell.key}.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["settings"] != json.loads(json.dumps(cell.settings)) or data["error"] is not None:
            return None
        judgements = tuple(_judgements(data["judgements"]))
        return Result(cell, judgements, None, float(data["seconds"]), data["detail"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or damaged by other hands: run it


def _judgements(entries: Sequence[Mapping[str, Any]]) -> Iterator[Judgement]:
    for entry in entries:
        yield Judgement(
            data=entry["data"],
            split=entry["split"],
            report=entry["report"],
            names=tuple(entry["names"]),
            pred=tuple(float(value) for value in entry["pred"]),
        )


def write(folder: Path, result: Result) -> None:
    """Write a cell, whole or not at all.

    Raises:
        OutputError: the disk is full or the place cannot be written.
    """
    data = {
        "settings": result.cell.settings,
        "title": result.cell.title,
        "error": result.error,
        "seconds": result.seconds,
        "detail": result.detail,
        "judgements": [dataclasses.asdict(judgement) for judgement in result.judgements],
    }
    text = json.dumps(without_nan(data), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / FOLDER / f"{result.cell.key}.json", text + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value.name if isinstance(value, Path) else value
