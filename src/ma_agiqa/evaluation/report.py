"""The record of one evaluation, made from predictions, and the record as table, plot and file.

    evaluate_predictions   any predictions for one part of one split
    EvaluationReport       which model on which images, how good, how sure, made how
    render, scatter        the report on a terminal, and as a plot

There is one prediction per image of the part: nothing is dropped, shuffled or skipped. Caveats of
the split and warnings of the metrics are part of the record, so that whatever shows a number can
show them too.

The plot shows what a correlation hides: one dot per image, coloured by the first tabulated group
(the generator of AGIQA-3K), and the logistic curve of the fitted metrics. It is not drawn through
pyplot, so it touches no display and no global state.

Shapes: n images of the evaluated part.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ma_agiqa.config import ScoreInterval
from ma_agiqa.data.samples import Samples
from ma_agiqa.data.splits import PROMPT, Split
from ma_agiqa.errors import DataError, MissingExtraError, UsageError
from ma_agiqa.evaluation import metrics
from ma_agiqa.evaluation.bootstrap import RESAMPLES, Interval, bootstrap_all
from ma_agiqa.files import atomic_path, write_atomically
from ma_agiqa.provenance import Environment, environment
from ma_agiqa.text import join_some

PER_IMAGE = ("names", "mos", "pred", "labels")

LABELS = {
    "srcc": "SRCC",
    "plcc_raw": "PLCC, raw",
    "plcc_fitted": "PLCC, fitted",
    "krcc": "KRCC",
    "rmse_fitted": "RMSE, fitted",
}

SUFFIXES = (".png", ".svg", ".pdf")
"""Of plots."""

COLOURS = 10  # of the palette `tab10`; more values share a grey one
TITLE_WIDTH = 90  # characters that fit above the plot


@dataclass(frozen=True)
class GroupRow:
    """The result on the images of one group; metrics of fewer than 5 images are NaN.

    Attributes:
        value: the group, e.g. a generator's name.
        n: how many images.
        srcc, plcc_raw: within the group.
        mean_mos, mean_pred: their difference shows a model's bias for or against the group.
        covered: as of the whole report, within the group.
    """

    value: str
    n: int
    srcc: float
    plcc_raw: float
    mean_mos: float
    mean_pred: float
    covered: float | None = None


@dataclass(frozen=True)
class EvaluationReport:
    """One model on one part of one split.

    Attributes:
        model, dataset, target, split, part: what was evaluated on what.
        protocol, caveats: of the split, and warnings of the metrics.
        n: images evaluated; all of the part.
        metrics: by name, each with its interval.
        groups: group -> one row per value, in alphabetical order.
        names, mos, pred: of each image, each of length n.
        labels: group -> the value of each image, of length n.
        environment: machine, versions, commit, date.
        command: what reproduces it; "" when called from Python.
        interval: of the model's scores; None where there is none.
        covered: share of the human scores that it holds; None where it is not known how these
            lie on the model's scale.
    """

    model: str
    dataset: str
    target: str
    split: str
    part: str
    protocol: str
    caveats: tuple[str, ...]
    n: int
    metrics: dict[str, Interval]
    groups: dict[str, tuple[GroupRow, ...]]
    names: tuple[str, ...]
    mos: tuple[float, ...]
    pred: tuple[float, ...]
    labels: dict[str, tuple[str, ...]]
    environment: Environment
    command: str
    interval: ScoreInterval | None = None
    covered: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data; NaN, which JSON lacks, becomes None.

        What is there for every image stays out: human scores belong to the data set's
        publisher, and a report is to be shared. `write_predictions` writes them.
        """
        data: dict[str, Any] = without_nan(dataclasses.asdict(self))
        return {key: value for key, value in data.items() if key not in PER_IMAGE}

    def write_predictions(self, path: str | Path) -> None:
        """Write one CSV row per image: name, human score, prediction, groups.

        Raises:
            OutputError: the disk is full or the place cannot be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "mos", "pred", *self.labels])
        writer.writerows(zip(self.names, self.mos, self.pred, *self.labels.values(), strict=True))
        write_atomically(path, text.getvalue())

    def to_json(self, path: str | Path) -> None:
        """Write the figures to `path`, whole or not at all.

        Raises:
            OutputError: the disk is full or the place cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(path, text + "\n")


def evaluate_predictions(
    samples: Samples,
    split: Split,
    part: str,
    pred: ArrayLike,
    *,
    model: str,
    target: str | None = None,
    group_by: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    command: str = "",
    interval: ScoreInterval | None = None,
    held: NDArray[np.bool_] | None = None,
) -> EvaluationReport:
    """Judge predictions for one part of a split.

    Args:
        samples: the whole data set.
        pred: one finite score per image of the part, in the order of `split.part(part)`;
            shape (n,).
        target: human score to compare with; the data set's default when None.
        group_by: groups to tabulate; all but the prompts, which have few images, when None.
        resamples, seed: of the bootstrap.
        interval: of the model's scores.
        held: whether each human score lies in it; shape (n,).

    Raises:
        DataError: another number of predictions than images, or predictions not finite.
        UsageError: unknown part, target or group.
    """
    chosen = samples.subset(split.part(part))
    scores = np.asarray(pred, dtype=np.float64)
    _check(scores, chosen)
    target = next(iter(samples.targets)) if target is None else target
    mos = chosen.target(target)
    keys = [key for key in chosen.groups if key != PROMPT] if group_by is None else group_by
    unknown = [key for key in keys if key not in chosen.groups]
    if unknown:
        raise UsageError(f"{samples.dataset} has no groups {unknown}, only {list(chosen.groups)}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", metrics.MetricWarning)
        figures = bootstrap_all(mos, scores, resamples=resamples, seed=seed)
    warned = [str(w.message) for w in caught if issubclass(w.category, metrics.MetricWarning)]
    return EvaluationReport(
        model=model,
        dataset=samples.dataset,
        target=target,
        split=split.name,
        part=part,
        protocol=split.protocol,
        caveats=(*split.caveats, *dict.fromkeys(warned)),
        n=len(chosen),
        metrics=figures,
        groups={key: _group_rows(chosen.groups[key], mos, scores, held) for key in keys},
        names=chosen.name,
        mos=tuple(mos.tolist()),
        pred=tuple(scores.tolist()),
        labels={key: chosen.groups[key] for key in keys},
        environment=environment(),
        command=command,
        interval=interval,
        covered=None if held is None else float(held.mean()),
    )


def _check(scores: NDArray[np.float64], chosen: Samples) -> None:
    """Refuse predictions that are not one finite number per record."""
    if scores.shape != (len(chosen),):
        raise DataError(f"predictions of shape {scores.shape} for {len(chosen)} records")
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(chosen)} predictions are NaN or infinite: "
            f"{join_some([chosen.name[i] for i in bad])}"
        )


def _group_rows(
    labels: Sequence[str],
    mos: NDArray[np.float64],
    pred: NDArray[np.float64],
    held: NDArray[np.bool_] | None,
) -> tuple[GroupRow, ...]:
    """Return one row per distinct label."""
    column = np.array(labels, dtype=object)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics.MetricWarning)  # NaN in a small group says it
        for value in sorted(set(labels)):
            members = column == value
            pair = mos[members], pred[members]
            rows.append(
                GroupRow(
                    value=value,
                    n=int(members.sum()),
                    srcc=metrics.srcc(*pair),
                    plcc_raw=metrics.plcc_raw(*pair),
                    mean_mos=float(pair[0].mean()),
                    mean_pred=float(pair[1].mean()),
                    covered=None if held is None else float(held[members].mean()),
                )
            )
    return tuple(rows)


def without_nan(value: Any) -> Any:
    """Return nested plain data with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# The report on a terminal


def render(report: EvaluationReport, console: Console) -> None:
    """Print the figures, one table per group, and the caveats."""
    console.print(
        f"[bold]{escape(report.model)}[/] on {escape(report.dataset)} ({escape(report.target)}), "
        f"{escape(report.split)}:{report.part}, {report.n} images"
    )
    console.print(escape(report.protocol), style="dim")
    console.print(_figures(report))
    if report.interval is not None and report.covered is not None:
        console.print(
            f"{100 * report.covered:.1f} % of the human scores lie within "
            f"{report.interval.half_width:.2f} of the score; "
            f"{100 * report.interval.coverage:g} % are meant"
        )
    for key, rows in report.groups.items():
        console.print(_group_table(key, rows))
    for caveat in report.caveats:
        console.print(f"[yellow]Note:[/] {escape(caveat)}.")
    made = report.environment
    commit = made.commit or "no commit"
    console.print(escape(f"{made.hardware}; {commit}; {made.date}"), style="dim")


def _figures(report: EvaluationReport) -> Table:
    """Return one row per metric."""
    level = next(iter(report.metrics.values())).level
    table = Table("metric", "value", f"{100 * level:g} % interval")
    for name, interval in report.metrics.items():
        between = f"{number(interval.low)} to {number(interval.high)}"
        table.add_row(LABELS[name], number(interval.value), between)
    return table


def _group_table(key: str, rows: tuple[GroupRow, ...]) -> Table:
    """Return one row per value of a group."""
    table = Table(escape(key))
    for heading in ("n", "SRCC", "PLCC, raw", "mean MOS", "mean prediction"):
        table.add_column(heading, justify="right")
    if any(row.covered is not None for row in rows):
        table.add_column("in interval", justify="right")
    for row in rows:
        values = (row.srcc, row.plcc_raw, row.mean_mos, row.mean_pred)
        share = [] if row.covered is None else [f"{100 * row.covered:.1f} %"]
        table.add_row(escape(row.value), str(row.n), *map(number, values), *share)
    return table


def number(value: float) -> str:
    """Return four decimals, or a dash for an undefined value."""
    return f"{value:.4f}" if math.isfinite(value) else "-"


# The report as a plot


def scatter(report: EvaluationReport, path: str | Path) -> None:
    """Draw prediction against human score as PNG, SVG or PDF, by suffix.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the place cannot be written.
        UsageError: a suffix matplotlib cannot write.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.4), dpi=150, layout="constrained")
    draw(report, figure.add_subplot())
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lower()[1:])


def check_plot(path: str | Path) -> None:
    """Refuse what could never be drawn, before the work that leads to it.

    Raises:
        MissingExtraError: matplotlib is not installed.
        UsageError: a suffix matplotlib cannot write.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UsageError(f"cannot draw to {str(path)!r}", remedy=f"end it in {' '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train") from error


def draw(report: EvaluationReport, axes: Any) -> None:
    """Draw `report` on matplotlib axes."""
    mos, pred = np.array(report.mos), np.array(report.pred)
    for value, members, colour in _groups(report):
        axes.scatter(
            pred[members], mos[members], s=14, alpha=0.65, linewidths=0, color=colour, label=value
        )
    if len(mos) >= metrics.MIN_PAIRS and np.ptp(pred) > 0:
        grid = np.linspace(pred.min(), pred.max(), 200)
        axes.plot(grid, metrics.logistic_fit(mos, pred)(grid), color="black", label="logistic fit")
    axes.set_xlabel(f"prediction of {report.model}")
    axes.set_ylabel(f"human score (MOS, {report.target})")
    axes.set_title(_title(report), fontsize=9)
    axes.legend(title=next(iter(report.labels), None), fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _groups(report: EvaluationReport) -> list[tuple[str, Any, str]]:
    """Return name, members (n,) and colour of each group; one group when there are none."""
    if not report.labels:
        return [("images", np.ones(report.n, dtype=bool), "C0")]
    labels = np.array(next(iter(report.labels.values())), dtype=object)
    values = sorted(set(labels), key=lambda value: (-int((labels == value).sum()), value))
    own = values if len(values) <= COLOURS else values[: COLOURS - 1]
    groups = [(value, labels == value, f"C{i}") for i, value in enumerate(own)]
    if len(own) < len(values):
        others = ~np.isin(labels.astype(str), own)
        groups.append((f"{len(values) - len(own)} others", others, "lightgrey"))
    return groups


def _title(report: EvaluationReport) -> str:
    """Return what was measured, the figures with their intervals, and the caveats."""
    what = f"{report.dataset} {report.split}:{report.part}, n = {report.n}"
    figures = [
        f"{LABELS[name]} {number(interval.value)} [{number(interval.low)}, {number(interval.high)}]"
        for name, interval in report.metrics.items()
    ]
    lines = [what, ", ".join(figures[:2]), ", ".join(figures[2:4]), *figures[4:]]
    notes = [line for caveat in report.caveats for line in wrap(caveat, TITLE_WIDTH)]
    return "\n".join([*lines, *notes])
