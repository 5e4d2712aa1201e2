"""An evaluation on a terminal: figures with intervals, groups, caveats."""

from __future__ import annotations

import math

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ma_agiqa.evaluation.report import EvaluationReport, GroupRow

LABELS = {
    "srcc": "SRCC",
    "plcc_raw": "PLCC, raw",
    "plcc_fitted": "PLCC, fitted",
    "krcc": "KRCC",
    "rmse_fitted": "RMSE, fitted",
}


def render(report: EvaluationReport, console: Console) -> None:
    """Print the figures, one table per group, and what to know about them."""
    console.print(
        f"[bold]{escape(report.model)}[/] on {escape(report.dataset)} ({escape(report.target)}), "
        f"{escape(report.split)}:{report.part}, {report.n} images"
    )
    console.print(escape(report.protocol), style="dim")
    console.print(_figures(report))
    for key, rows in report.groups.items():
        console.print(_group(key, rows))
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


def _group(key: str, rows: tuple[GroupRow, ...]) -> Table:
    """Return one row per value of a group."""
    table = Table(escape(key))
    for heading in ("n", "SRCC", "PLCC, raw", "mean MOS", "mean prediction"):
        table.add_column(heading, justify="right")
    for row in rows:
        values = (row.srcc, row.plcc_raw, row.mean_mos, row.mean_pred)
        table.add_row(escape(row.value), str(row.n), *map(number, values))
    return table


def number(value: float) -> str:
    """Return four decimals, or a dash for an undefined value."""
    return f"{value:.4f}" if math.isfinite(value) else "-"
