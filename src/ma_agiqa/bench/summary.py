"""What the cells say together: a row per model and data set, comparisons, the cross matrix.

A row of several cells (splits, seeds) gives the median and the range over cells. Its interval is
the median over cells of the ends of each cell's bootstrap interval: how sure one split's number
is, where the range shows how much splits and seeds move it. Cells that failed are counted.

Shapes: n images, K seeds, S splits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ma_agiqa.bench.cells import Judgement, Result
from ma_agiqa.bench.compare import Difference, Floats, corrected_t, mean_srcc, paired_bootstrap
from ma_agiqa.bench.material import Material
from ma_agiqa.bench.published import PUBLISHED, Published
from ma_agiqa.bench.runner import Outcome
from ma_agiqa.evaluation.report import without_nan
from ma_agiqa.provenance import environment

FIGURES = ("srcc", "plcc_fitted", "plcc_raw", "krcc", "rmse_fitted")


@dataclass(frozen=True)
class Figure:
    """One metric of a row; NaN where no cell has it.

    Attributes:
        least, most: over cells.
        low, high: interval; see the module.
    """

    median: float
    least: float
    most: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """A model on one kind of split of a data set.

    Attributes:
        trained_on: name of the data set it learned on; None for what does not learn here.
        protocol: kind of split: `paper`, `ipce`, `prompt`, `random`, `all`.
        splits, cells, failed: how many there are.
        caveats: of all cells, each once.
    """

    model: str
    kind: str
    data: str
    trained_on: str | None
    protocol: str
    splits: int
    cells: int
    failed: int
    figures: dict[str, Figure]
    caveats: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """A model against the baseline on one kind of split; `per_split` holds each split's test."""

    model: str
    baseline: str
    data: str
    protocol: str
    over_splits: Difference | None
    per_split: dict[str, Difference]


@dataclass(frozen=True)
class Summary:
    """All that the written results hold.

    Attributes:
        part: of each split, on which models were judged.
        published: none beside figures of a validation part, for nobody prints those.
    """

    title: str
    part: str
    rows: tuple[Row, ...]
    cross: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    errors: tuple[tuple[str, str], ...]
    published: tuple[Published, ...]


def summarise(outcome: Outcome) -> Summary:
    """Return the summary of a benchmark."""
    names = [material.name for material in outcome.materials]
    registry_names = {material.samples.dataset for material in outcome.materials}
    return Summary(
        title=outcome.grid.title,
        part=outcome.grid.part,
        rows=tuple(_rows(outcome)),
        cross=tuple(_cross(outcome, names)) if outcome.grid.cross else (),
        comparisons=tuple(_comparisons(outcome)),
        errors=tuple(
            (result.cell.title, result.error)
            for result in outcome.results
            if result.error is not None
        ),
        published=tuple(
            row for row in PUBLISHED if row.data in registry_names and outcome.grid.part == "test"
        ),
    )


def to_dict(outcome: Outcome, summary: Summary, *, command: str) -> dict[str, Any]:
    """Return everything as plain data, without what is there for every image."""
    data = {
        "title": summary.title,
        "command": command,
        "environment": dataclasses.asdict(environment()),
        "baseline": outcome.grid.baseline,
        "summary": dataclasses.asdict(summary),
        "cells": [
            {
                "title": result.cell.title,
                "model": result.cell.model.name,
                "settings": result.cell.settings,
                "error": result.error,
                "seconds": result.seconds,
                "detail": result.detail,
                "judgements": [
                    {"data": j.data, "split": j.split, "report": j.report}
                    for j in result.judgements
                ],
            }
            for result in outcome.results
        ],
    }
    plain: dict[str, Any] = without_nan(data)
    return plain


def kind_of(split: str) -> str:
    """Return `ipce` of `ipce-01`, `paper` of `paper`."""
    return split.partition("-")[0]


def _rows(outcome: Outcome) -> Iterator[Row]:
    for model, data, protocol in _places(outcome):
        members = _members(outcome, model, data, protocol)
        own = [result.judgements[0] for result in members if result.error is None]
        trained = data if members[0].cell.model.learns else None
        yield _row(members, own, data=data, trained_on=trained, protocol=protocol)


def _cross(outcome: Outcome, names: Sequence[str]) -> Iterator[Row]:
    """Yield a row per model, data set it learned on and other data set it is judged on."""
    for model, data, protocol in _places(outcome):
        members = _members(outcome, model, data, protocol)
        if not members[0].cell.model.learns:
            continue
        for other in names:
            judged = [j for r in members for j in r.judgements[1:] if j.data == other]
            if judged:
                yield _row(members, judged, data=other, trained_on=data, protocol=protocol)


def _places(outcome: Outcome) -> list[tuple[str, str, str]]:
    """Return model, data set and kind of split of every row, in order."""
    cells = [result.cell for result in outcome.results]
    return list(dict.fromkeys((c.model.name, c.data.name, kind_of(c.split)) for c in cells))


def _members(outcome: Outcome, model: str, data: str, protocol: str) -> list[Result]:
    return [
        result
        for result in outcome.results
        if (result.cell.model.name, result.cell.data.name) == (model, data)
        and kind_of(result.cell.split) == protocol
    ]


def _row(
    members: Sequence[Result],
    judged: Sequence[Judgement],
    *,
    data: str,
    trained_on: str | None,
    protocol: str,
) -> Row:
    caveats = [caveat for j in judged for caveat in j.report["caveats"]]
    return Row(
        model=members[0].cell.model.name,
        kind=members[0].cell.model.kind,
        data=data,
        trained_on=trained_on,
        protocol=protocol,
        splits=len({result.cell.split for result in members}),
        cells=len(members),
        failed=sum(result.error is not None for result in members),
        figures={name: _figure(name, judged) for name in FIGURES},
        caveats=tuple(dict.fromkeys(caveats)),
    )


def _figure(name: str, judged: Sequence[Judgement]) -> Figure:
    metrics = [judgement.report["metrics"][name] for judgement in judged]
    table = np.array(
        [[_number(metric[key]) for key in ("value", "low", "high")] for metric in metrics]
    ).reshape(-1, 3)
    table = table[np.isfinite(table[:, 0])]
    if not len(table):
        return Figure(*[math.nan] * 5)
    value, low, high = np.median(table, axis=0).tolist()
    return Figure(value, float(table[:, 0].min()), float(table[:, 0].max()), low, high)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _comparisons(outcome: Outcome) -> Iterator[Comparison]:
    baseline = outcome.grid.baseline
    for model, data, protocol in _places(outcome) if baseline is not None else []:
        assert baseline is not None
        if model == baseline:
            continue
        material = next(m for m in outcome.materials if m.name == data)
        splits = [name for name in material.splits if kind_of(name) == protocol]
        pairs = {
            split: (_predictions(outcome, model, data, split), theirs)
            for split in splits
            if len(theirs := _predictions(outcome, baseline, data, split))
        }
        pairs = {split: pair for split, pair in pairs.items() if len(pair[0])}
        if pairs:
            yield _compared(outcome, material, model, baseline, protocol, pairs)


def _compared(
    outcome: Outcome,
    material: Material,
    model: str,
    baseline: str,
    protocol: str,
    pairs: dict[str, tuple[Floats, Floats]],
) -> Comparison:
    mos = material.samples.target(material.target)
    judged = {split: mos[material.judged(split)] for split in pairs}
    per_split = {
        split: paired_bootstrap(judged[split], ours, theirs, resamples=outcome.grid.resamples)
        for split, (ours, theirs) in pairs.items()
    }
    over = None
    if len(pairs) > 1:
        differences = [
            mean_srcc(judged[s], ours) - mean_srcc(judged[s], theirs)
            for s, (ours, theirs) in pairs.items()
        ]
        over = corrected_t(
            np.array(differences),
            train=float(np.mean([len(material.splits[s].train) for s in pairs])),
            test=float(np.mean([len(scores) for scores in judged.values()])),
        )
    return Comparison(model, baseline, material.name, protocol, over, per_split)


def _predictions(outcome: Outcome, model: str, data: str, split: str) -> Floats:
    """Return predictions (K, n) of every seed that has them, in the order of the judged part."""
    rows = [
        result.judgements[0].pred
        for result in outcome.results
        if (result.cell.model.name, result.cell.data.name, result.cell.split)
        == (model, data, split)
        and result.error is None
    ]
    return np.array(rows, dtype=np.float64)
