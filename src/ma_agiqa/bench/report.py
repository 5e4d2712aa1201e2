"""What the results of a benchmark say: a row per model and data set, paired tests, tables.

A row of several runs (splits, seeds) gives the median and the range over runs. Its interval is the
median of the ends of the runs' bootstrap intervals: the interval says how sure the figure of one
split is, the range how much splits and seeds move it. Failed runs are counted.

Comparison within one split: the paired bootstrap over images (Efron & Tibshirani 1993, chapter
16; used on two systems by Koehn 2004). Both models are measured on the same resampled images, so
what makes images hard cancels out. With several seeds a model's SRCC is the mean over them.

Comparison over several splits of one data set: the corrected resampled t-test (Nadeau & Bengio
2003). The training parts of random splits overlap, so their differences are not independent; the
variance is raised from 1/S to 1/S + (test images / training images).

p is two-sided: how likely a difference this far from zero is if there were none. Nothing corrects
it for many comparisons; the table says how many there are.

Shapes: n images, K seeds, S splits.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t

from ma_agiqa.bench.job import Evaluation, LoadedDataset
from ma_agiqa.bench.literature import PUBLISHED, Published
from ma_agiqa.bench.run import Outcome, Result
from ma_agiqa.data.datasets import DATASETS
from ma_agiqa.errors import DataError
from ma_agiqa.evaluation.report import without_nan
from ma_agiqa.files import write_atomically
from ma_agiqa.provenance import environment

Floats = NDArray[np.float64]
FIGURES = ("srcc", "plcc_fitted", "plcc_raw", "krcc", "rmse_fitted")


def write(outcome: Outcome, out: Path, *, command: str) -> str:
    """Write results.json and results.md into a folder; return the text of the second.

    Raises:
        DataError: a finished cell is of other images than its split.
        OutputError: they cannot be written.
    """
    summary = summarise(outcome)
    data = to_dict(outcome, summary, command=command)
    text = markdown(summary)
    whole = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(out / "results.json", whole + "\n")
    write_atomically(out / "results.md", text)
    return text


# --- paired tests --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """SRCC of one model less that of another; NaN where it is undefined.

    Attributes:
        low, high: the 95 % interval.
        p: two-sided.
        method: `paired bootstrap` or `corrected resampled t`.
    """

    value: float
    low: float
    high: float
    p: float
    method: str


def paired_bootstrap(
    mos: Floats, ours: Floats, theirs: Floats, *, resamples: int = 1000, seed: int = 0
) -> Difference:
    """Test the difference on one split.

    Args:
        mos: (n,).
        ours, theirs: predictions for the same images, (K, n); K may differ.

    Raises:
        DataError: shapes do not fit.
    """
    if mos.ndim != 1 or ours.shape[1:] != mos.shape or theirs.shape[1:] != mos.shape:
        raise DataError(
            f"a paired test needs the same images: {mos.shape}, {ours.shape}, {theirs.shape}"
        )
    value = mean_srcc(mos, ours) - mean_srcc(mos, theirs)
    generator = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for number in range(resamples):
        rows = generator.integers(0, len(mos), size=len(mos))
        drawn = mos[rows]
        draws[number] = mean_srcc(drawn, ours[:, rows]) - mean_srcc(drawn, theirs[:, rows])
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value) or 2 * len(draws) <= resamples:
        return Difference(value, math.nan, math.nan, math.nan, "paired bootstrap")
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    # Plus one: a finite number of draws can never show a probability of nothing.
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
    return Difference(value, low, high, p, "paired bootstrap")


def corrected_t(differences: Floats, *, train: float, test: float) -> Difference:
    """Test the mean of the differences of S splits, (S,).

    Args:
        train, test: images in the training and the test part of a split.
    """
    count = len(differences)
    value = float(differences.mean()) if count else math.nan
    if count < 2 or not math.isfinite(value) or train <= 0:
        return Difference(value, math.nan, math.nan, math.nan, "corrected resampled t")
    spread = math.sqrt((1 / count + test / train) * float(differences.var(ddof=1)))
    if spread == 0:
        p = 1.0 if value == 0 else 0.0
        return Difference(value, value, value, p, "corrected resampled t")
    reach = float(t.ppf(0.975, count - 1)) * spread
    p = 2 * float(t.sf(abs(value) / spread, count - 1))
    return Difference(value, value - reach, value + reach, p, "corrected resampled t")


def mean_srcc(mos: Floats, pred: Floats) -> float:
    """Return the mean over seeds of the SRCC of (K, n) predictions; NaN where undefined."""
    ranks = rankdata(np.vstack([mos[None], pred]), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(ranks, axis=1)
    if not norms.all():
        return math.nan
    return float(np.mean(ranks[1:] @ ranks[0] / (norms[1:] * norms[0])))


# --- summary -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One metric of a row; NaN where no run has it.

    Attributes:
        least, most: over runs.
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
        registry: of the data set, in our registry, if papers report on the same score; else None.
        trained_on: name of the data set it learned on; None for what does not learn here.
        protocol: kind of split, see `kind_of`.
        splits, cells, failed: how many splits and runs there are, and how many runs failed.
        caveats: of all runs, each once.
    """

    model: str
    kind: str
    data: str
    registry: str | None
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
    """All that results.json says of the results together; the names are its keys.

    Attributes:
        part: of each split, on which models were judged.
        cross: rows of models judged on other data sets than they learned on.
        errors: title of a failed job, and why it failed.
        published: none beside figures of a validation part, for nobody publishes those.
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
    grid, results = outcome.grid, outcome.results
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        job = result.job
        groups.setdefault((job.model.name, job.data.name, kind_of(job.split)), []).append(result)
    known = {_registry_name(data) for data in outcome.datasets}
    return Summary(
        title=grid.title,
        part=grid.part,
        rows=tuple(_own_row(members) for members in groups.values()),
        cross=tuple(row for members in groups.values() for row in _cross_rows(members)),
        comparisons=tuple(_comparisons(outcome, groups)),
        errors=tuple((r.job.title, r.error) for r in results if r.error is not None),
        published=tuple(p for p in PUBLISHED if p.data in known and grid.part == "test"),
    )


def _registry_name(data: LoadedDataset) -> str | None:
    """Return the name under which papers report on the score of a data set, if they do."""
    usual = data.target == next(iter(data.samples.targets))
    return data.data if usual and data.data in DATASETS else None


def kind_of(split: str) -> str:
    """Return `ipce` of `ipce-01`, `random-8-2` of `random-8-2-0`, `unseen` of `unseen-glide`."""
    return re.sub(r"(?<=\bunseen)-.+|-\d+$", "", split)


def _own_row(members: Sequence[Result]) -> Row:
    """Return the row of a model on the data set of its own splits."""
    job = members[0].job
    own = [result.evaluations[0] for result in members if result.error is None]
    trained_on = job.data.name if job.model.learns else None
    return _row(members, own, data=job.data, trained_on=trained_on)


def _cross_rows(members: Sequence[Result]) -> Iterator[Row]:
    """Yield a row for each other data set that a model is judged on."""
    job = members[0].job
    for other in job.others:
        judged = [e for r in members for e in r.evaluations[1:] if e.data == other.name]
        if judged:
            yield _row(members, judged, data=other, trained_on=job.data.name)


def _row(
    members: Sequence[Result],
    judged: Sequence[Evaluation],
    *,
    data: LoadedDataset,
    trained_on: str | None,
) -> Row:
    job = members[0].job
    caveats = [caveat for evaluation in judged for caveat in evaluation.report["caveats"]]
    return Row(
        model=job.model.name,
        kind=job.model.kind,
        data=data.name,
        registry=_registry_name(data),
        trained_on=trained_on,
        protocol=kind_of(job.split),
        splits=len({result.job.split for result in members}),
        cells=len(members),
        failed=sum(result.error is not None for result in members),
        figures={name: _figure(name, judged) for name in FIGURES},
        caveats=tuple(dict.fromkeys(caveats)),
    )


def _figure(name: str, judged: Sequence[Evaluation]) -> Figure:
    metrics = [evaluation.report["metrics"][name] for evaluation in judged]
    rows = [[metric[key] for key in ("value", "low", "high")] for metric in metrics]
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)  # None becomes NaN
    table = table[np.isfinite(table[:, 0])]
    if not len(table):
        return Figure(*[math.nan] * 5)
    value, low, high = np.median(table, axis=0).tolist()
    return Figure(value, float(table[:, 0].min()), float(table[:, 0].max()), low, high)


def _comparisons(
    outcome: Outcome, groups: Mapping[tuple[str, str, str], Sequence[Result]]
) -> Iterator[Comparison]:
    baseline = outcome.grid.baseline
    if baseline is None:
        return
    for (model, data_name, protocol), members in groups.items():
        others = groups.get((baseline, data_name, protocol), ())
        ours, theirs = _predictions(members), _predictions(others)
        both = [split for split in members[0].job.data.splits if split in ours.keys() & theirs]
        if model == baseline or not both:
            continue
        data = members[0].job.data
        mos = {split: data.samples.target(data.target)[data.rows(split)] for split in both}
        resamples = outcome.grid.resamples
        per_split = {
            split: paired_bootstrap(mos[split], ours[split], theirs[split], resamples=resamples)
            for split in both
        }
        over_splits = None
        if len(both) > 1:
            over_splits = corrected_t(
                np.array([difference.value for difference in per_split.values()]),
                train=float(np.mean([len(data.splits[split].train) for split in both])),
                test=float(np.mean([len(scores) for scores in mos.values()])),
            )
        yield Comparison(model, baseline, data_name, protocol, over_splits, per_split)


def _predictions(members: Sequence[Result]) -> dict[str, Floats]:
    """Return split -> predictions (K, n) of every seed that has them, in the split's order.

    Raises:
        DataError: a finished cell is of other images than its split.
    """
    rows: dict[str, list[tuple[float, ...]]] = {}
    for result in members:
        if result.error is None:
            job, own = result.job, result.evaluations[0]
            if own.names != job.data.judged(job.split).name or len(own.pred) != len(own.names):
                raise DataError(
                    f"the result of {job.title} is of other images than its split",
                    remedy=f"delete {job.key}.json in the folder of cells and run again",
                )
            rows.setdefault(job.split, []).append(own.pred)
    return {split: np.array(pred, dtype=np.float64) for split, pred in rows.items()}


def to_dict(outcome: Outcome, summary: Summary, *, command: str) -> dict[str, Any]:
    """Return everything as plain data, without what is there for every image."""
    data: dict[str, Any] = without_nan(
        {
            "title": summary.title,
            "command": command,
            "environment": dataclasses.asdict(environment()),
            "baseline": outcome.grid.baseline,
            "summary": dataclasses.asdict(summary),
            "cells": [
                {
                    "title": result.job.title,
                    "model": result.job.model.name,
                    "settings": result.job.settings,
                    "error": result.error,
                    "seconds": result.seconds,
                    "detail": result.detail,
                    "judgements": [
                        {"data": e.data, "split": e.split, "report": e.report}
                        for e in result.evaluations
                    ],
                }
                for result in outcome.results
            ],
        }
    )
    return data


# --- Markdown ------------------------------------------------------------------------------------

HEAD = ("model", "splits", "runs", "SRCC", "95 % interval", "range", "PLCC fitted", "KRCC", "RMSE")
CROSS_HEAD = ("model", "trained on", "judged on", "runs", "SRCC", "95 % interval", "PLCC fitted")
COMPARISON_HEAD = ("model", "data", "splits", "difference of SRCC", "95 % interval", "p", "test")
COMPARED = (
    "Difference of SRCC, model less baseline, on the same images. p is two-sided and not "
    "corrected for the {count} comparisons made."
)
VALIDATION = (
    "Judged on the validation part: figures to choose by, not to report. What a model itself "
    "chose on that part (an epoch, a strength) flatters it."
)
LEGEND = (
    "Of several runs: the median, the range over runs, and the median of each run's bootstrap "
    "interval. Rows in italics are printed in papers, not measured here; their protocol differs "
    "as their last column says."
)


def markdown(summary: Summary) -> str:
    """Return the whole text."""
    parts = [f"# {summary.title}"]
    if summary.part != "test":
        parts.append(VALIDATION)
    for data, protocol in dict.fromkeys((row.data, row.protocol) for row in summary.rows):
        parts += _section(summary, data, protocol)
    if summary.cross:
        parts.append("## Trained on one data set, judged on another")
        parts.append(_table(CROSS_HEAD, map(_cross_cells, summary.cross)))
    if summary.comparisons:
        parts.append(f"## Against {summary.comparisons[0].baseline}")
        parts.append(COMPARED.format(count=len(summary.comparisons)))
        parts.append(_table(COMPARISON_HEAD, map(_comparison_cells, summary.comparisons)))
    if summary.errors:
        parts.append("## Failed")
        parts.append(_table(("cell", "error"), summary.errors))
    parts.append(LEGEND)
    return "\n\n".join(parts) + "\n"


def _section(summary: Summary, data: str, protocol: str) -> Iterator[str]:
    """Yield the table of one data set and kind of split: our rows, then those of papers."""
    yield f"## {data}, split {protocol}"
    rows = [row for row in summary.rows if (row.data, row.protocol) == (data, protocol)]
    published = [row for row in summary.published if row.data == rows[0].registry]
    published.sort(key=lambda row: row.protocol != protocol)  # the nearest protocol first
    cells = [_row_cells(row) for row in rows]
    cells += [_published_cells(row, protocol) for row in published]
    yield _table((*HEAD, "note"), cells)
    if notes := _notes(rows):
        yield "\n".join(f"- {note}" for note in notes)


def _notes(rows: Sequence[Row]) -> list[str]:
    """Return the caveats of all rows, each once, with the models that it is about."""
    about: dict[str, list[str]] = {}
    for row in rows:
        # One warning of a metric on many splits differs only in the number it ends with.
        for caveat in dict.fromkeys(re.sub(r" \(SRCC .*\)$", "", c) for c in row.caveats):
            about.setdefault(caveat, []).append(row.model)
    return [
        note if len(models) == len(rows) else f"{', '.join(models)}: {note}"
        for note, models in about.items()
    ]


def _row_cells(row: Row) -> tuple[str, ...]:
    srcc, runs = row.figures["srcc"], row.cells - row.failed
    failed = f" ({row.failed} failed)" if row.failed else ""
    return (
        row.model,
        str(row.splits),
        f"{runs}{failed}",
        _number(srcc.median),
        _interval(srcc),
        f"{_number(srcc.least)} to {_number(srcc.most)}" if runs > 1 else "",
        *(_number(row.figures[name].median) for name in ("plcc_fitted", "krcc", "rmse_fitted")),
        "",
    )


def _published_cells(row: Published, protocol: str) -> tuple[str, ...]:
    near = "nearest protocol" if row.protocol == protocol else "other protocol"
    plcc = "" if row.plcc is None else _number(row.plcc)
    note = f"{near}; {row.differs}; {row.source}"
    return (f"*{row.method}*", "", "", _number(row.srcc), "", "", plcc, "", "", note)


def _cross_cells(row: Row) -> tuple[str, ...]:
    srcc, plcc = row.figures["srcc"], row.figures["plcc_fitted"]
    figures = (_number(srcc.median), _interval(srcc), _number(plcc.median))
    return (row.model, row.trained_on or "", row.data, str(row.cells - row.failed), *figures)


def _comparison_cells(comparison: Comparison) -> tuple[str, ...]:
    """Return one test: that over all splits where there are several."""
    names = list(comparison.per_split)
    splits = names[0] if len(names) == 1 else f"{len(names)} {comparison.protocol}"
    test = comparison.over_splits or comparison.per_split[names[0]]
    p = "-" if math.isnan(test.p) else f"{test.p:.3f}" if test.p >= 0.001 else "< 0.001"
    figures = (f"{test.value:+.4f}", f"{test.low:+.4f} to {test.high:+.4f}", p, test.method)
    return (comparison.model, comparison.data, splits, *figures)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; bars and line breaks in cells are made harmless."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _interval(figure: Figure) -> str:
    """Return `0.7000 to 0.8000`, or a dash."""
    return "-" if math.isnan(figure.low) else f"{_number(figure.low)} to {_number(figure.high)}"


def _number(value: float) -> str:
    """Return four decimals, or a dash for an undefined value."""
    return f"{value:.4f}" if math.isfinite(value) else "-"
