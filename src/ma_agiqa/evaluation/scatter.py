"""The plot that shows what a correlation hides: prediction against human score.

One dot per image, coloured by the first tabulated group (the generator of AGIQA-3K), the
logistic curve of the fitted metrics, and the figures. Not drawn through pyplot, so no
display and no global state are touched.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from ma_agiqa.errors import MissingExtraError, UsageError
from ma_agiqa.evaluation.metrics import MIN_PAIRS, logistic_fit
from ma_agiqa.evaluation.report import EvaluationReport
from ma_agiqa.evaluation.tables import LABELS, number
from ma_agiqa.files import atomic_path

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = 10  # of the palette `tab10`; more values share a grey one
TITLE_WIDTH = 90  # characters that fit above the plot


def scatter(report: EvaluationReport, path: str | Path) -> None:
    """Draw prediction against human score as PNG, SVG or PDF, by suffix.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the place cannot be written.
        UsageError: a suffix matplotlib cannot write.
    """
    check(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.4), dpi=150, layout="constrained")
    draw(report, figure.add_subplot())
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lower()[1:])


def check(path: str | Path) -> None:
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
    if len(mos) >= MIN_PAIRS and np.ptp(pred) > 0:
        grid = np.linspace(pred.min(), pred.max(), 200)
        axes.plot(grid, logistic_fit(mos, pred)(grid), color="black", label="logistic fit")
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
