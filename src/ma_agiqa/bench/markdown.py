"""The benchmark as Markdown tables, for a README or an issue."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from ma_agiqa.bench.compare import Difference
from ma_agiqa.bench.published import Published
from ma_agiqa.bench.summary import Comparison, Figure, Row, Summary


def markdown(summary: Summary) -> str:
    """Return the whole text."""
    parts = [f"# {summary.title}"]
    if summary.part != "test":
        parts.append(VALIDATION)
    parts += [_section(summary, place) for place in places(summary.rows)]
    if summary.cross:
        parts.append("## Trained on one data set, judged on another")
        parts.append(table(CROSS_HEAD, (cross_cells(row) for row in summary.cross)))
    if summary.comparisons:
        parts.append(f"## Against {summary.comparisons[0].baseline}")
        parts.append(COMPARED.format(count=len(summary.comparisons)))
        parts.append(table(COMPARISON_HEAD, (comparison_cells(c) for c in summary.comparisons)))
    if summary.errors:
        parts.append("## Failed")
        parts.append(table(("cell", "error"), summary.errors))
    parts.append(LEGEND)
    return "\n\n".join(parts) + "\n"


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


def places(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return data set and kind of split of every table, in order."""
    return list(dict.fromkeys((row.data, row.protocol) for row in rows))


def rows_at(summary: Summary, place: tuple[str, str]) -> list[Row]:
    """Return the rows of one table."""
    return [row for row in summary.rows if (row.data, row.protocol) == place]


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what a reader must know of a table, each note once, with the models it is about."""
    about: dict[str, list[str]] = {}
    for row in rows:
        # One warning of a metric on many splits differs only in the number it ends with.
        for caveat in dict.fromkeys(re.sub(r" \(SRCC .*\)$", "", c) for c in row.caveats):
            about.setdefault(caveat, []).append(row.model)
    everyone = len(rows)
    return [
        note if len(models) == everyone else f"{', '.join(models)}: {note}"
        for note, models in about.items()
    ]


def printed_at(summary: Summary, place: tuple[str, str]) -> list[Published]:
    """Return the printed figures for one table, those of the nearest protocol first."""
    rows = [row for row in summary.published if row.data == place[0]]
    return sorted(rows, key=lambda row: row.protocol != place[1])


def printed_cells(row: Published, protocol: str) -> tuple[str, ...]:
    """Return a printed figure under `HEAD` and its note."""
    near = "nearest protocol" if row.protocol == protocol else "other protocol"
    plcc = "" if row.plcc is None else number(row.plcc)
    note = f"{near}; {row.differs}; {row.source}"
    return (row.method, "", "", number(row.srcc), "", "", plcc, "", "", note)


def row_cells(row: Row) -> tuple[str, ...]:
    """Return a measured row under `HEAD`."""
    srcc = row.figures["srcc"]
    failed = f" ({row.failed} failed)" if row.failed else ""
    return (
        row.model,
        str(row.splits),
        f"{row.cells - row.failed}{failed}",
        number(srcc.median),
        interval(srcc),
        f"{number(srcc.least)} to {number(srcc.most)}" if row.cells - row.failed > 1 else "",
        *(number(row.figures[name].median) for name in ("plcc_fitted", "krcc", "rmse_fitted")),
    )


def cross_cells(row: Row) -> tuple[str, ...]:
    """Return a row of the cross matrix under `CROSS_HEAD`."""
    srcc, plcc = row.figures["srcc"], row.figures["plcc_fitted"]
    trained = row.trained_on or ""
    runs = str(row.cells - row.failed)
    return (
        row.model,
        trained,
        row.data,
        runs,
        number(srcc.median),
        interval(srcc),
        number(plcc.median),
    )


def comparison_cells(comparison: Comparison) -> tuple[str, ...]:
    """Return a comparison under `COMPARISON_HEAD`; over all splits where there are several."""
    names = list(comparison.per_split)
    splits = names[0] if len(names) == 1 else f"{len(names)} {comparison.protocol}"
    test = comparison.over_splits or comparison.per_split[names[0]]
    return (comparison.model, comparison.data, splits, *_test(test))


def _test(test: Difference) -> tuple[str, ...]:
    p = "-" if math.isnan(test.p) else f"{test.p:.3f}" if test.p >= 0.001 else "< 0.001"
    return (f"{test.value:+.4f}", f"{test.low:+.4f} to {test.high:+.4f}", p, test.method)


def _section(summary: Summary, place: tuple[str, str]) -> str:
    rows = rows_at(summary, place)
    cells: list[Sequence[str]] = [(*row_cells(row), "") for row in rows]
    for printed in printed_at(summary, place):
        method, *rest = printed_cells(printed, place[1])
        cells.append((f"*{method}*", *rest))
    told = "\n".join(f"- {note}" for note in notes(rows))
    text = f"## {place[0]}, split {place[1]}\n\n{table((*HEAD, 'note'), cells)}"
    return f"{text}\n\n{told}" if told else text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; bars and line breaks in cells are made harmless."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def interval(figure: Figure) -> str:
    """Return `0.7000 to 0.8000`, or a dash."""
    return "-" if math.isnan(figure.low) else f"{number(figure.low)} to {number(figure.high)}"


def number(value: float) -> str:
    """Return four decimals, or a dash for an undefined value."""
    return f"{value:.4f}" if math.isfinite(value) else "-"
