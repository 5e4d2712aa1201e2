"""The benchmark as one HTML page that needs nothing else: tables, and plots as inline SVG.

Each plot shows SRCC per model: a dot for the median, a thick line for the interval, a thin one
for the range over runs. Printed figures of papers are hollow, grey where their protocol differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ma_agiqa.bench import markdown as md
from ma_agiqa.bench.published import Published
from ma_agiqa.bench.summary import Row, Summary

WIDTH, LABELS, LINE, MARGIN = 860, 300, 22, 34
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1040px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:13px;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:3px 9px;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.printed{color:#666;font-style:italic} .error{color:#a00} small{color:#666}
svg text{font:12px system-ui,sans-serif;fill:#222} svg .grey{fill:#888}
@media (prefers-color-scheme:dark){body{background:#181818;color:#ddd}svg text{fill:#ddd}
th,td{border-color:#444}tr.printed,small{color:#999}}
"""


def page(summary: Summary, environment: Mapping[str, Any], command: str) -> str:
    """Return the page."""
    parts = [f"<h1>{escape(summary.title)}</h1>"]
    if summary.part != "test":
        parts.append(f"<p>{escape(md.VALIDATION)}</p>")
    for place in md.places(summary.rows):
        parts += _section(summary, place)
    if summary.cross:
        parts.append("<h2>Trained on one data set, judged on another</h2>")
        parts.append(_table(md.CROSS_HEAD, [md.cross_cells(row) for row in summary.cross]))
    if summary.comparisons:
        baseline = escape(summary.comparisons[0].baseline)
        parts.append(f"<h2>Against {baseline}</h2>")
        parts.append(f"<p>{escape(md.COMPARED.format(count=len(summary.comparisons)))}</p>")
        cells = [md.comparison_cells(comparison) for comparison in summary.comparisons]
        parts.append(_table(md.COMPARISON_HEAD, cells))
    if summary.errors:
        parts.append('<h2 class="error">Failed</h2>')
        parts.append(_table(("cell", "error"), summary.errors))
    parts.append(f"<p>{escape(md.LEGEND)}</p>")
    made = f"{environment['hardware']}; {environment['commit'] or 'no commit'}; "
    parts.append(f"<p><small>{escape(made + environment['date'])}<br>{escape(command)}</small></p>")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(summary.title)}</title><style>{STYLE}</style></head>\n"
        f"<body>{body}</body></html>\n"
    )


def _section(summary: Summary, place: tuple[str, str]) -> list[str]:
    rows = md.rows_at(summary, place)
    printed = md.printed_at(summary, place)
    cells: list[Sequence[str]] = [(*md.row_cells(row), "") for row in rows]
    cells += [md.printed_cells(row, place[1]) for row in printed]
    return [
        f"<h2>{escape(place[0])}, split {escape(place[1])}</h2>",
        plot(rows, printed, place[1]),
        _table((*md.HEAD, "note"), cells, printed_from=len(rows)),
        *(f"<p><small>Note: {escape(note)}.</small></p>" for note in md.notes(rows)),
    ]


def plot(rows: Sequence[Row], printed: Sequence[Published], protocol: str) -> str:
    """Return the SVG of one table; models without a figure have a label and no dot."""
    shown = [row.figures["srcc"] for row in rows]
    values = [v for f in shown for v in (f.median, f.least, f.low) if math.isfinite(v)]
    values += [row.srcc for row in printed]
    low = math.floor(10 * min(values, default=0)) / 10
    height = MARGIN + LINE * (len(rows) + len(printed)) + 10
    span = WIDTH - LABELS - 30

    def at(value: float) -> float:
        return LABELS + span * (value - low) / (1 - low)

    parts = [_axis(low, height, at(low), at(1.0))]
    for line, (row, figure) in enumerate(zip(rows, shown, strict=True)):
        y = MARGIN + LINE * line + LINE / 2
        parts.append(_label(row.model, y))
        if not math.isfinite(figure.median):
            continue
        parts.append(_segment(at(figure.least), at(figure.most), y, width=1))
        if math.isfinite(figure.low):
            parts.append(_segment(at(figure.low), at(figure.high), y, width=4))
        parts.append(f'<circle cx="{at(figure.median):.1f}" cy="{y}" r="5" fill="#0b62a8"/>')
    for line, paper in enumerate(printed, start=len(rows)):
        y = MARGIN + LINE * line + LINE / 2
        colour = "#0b62a8" if paper.protocol == protocol else "#aaa"
        parts.append(_label(f"{paper.method} (printed)", y, grey=True))
        parts.append(
            f'<circle cx="{at(paper.srcc):.1f}" cy="{y}" r="4" fill="none" stroke="{colour}" '
            'stroke-width="2"/>'
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="100%" role="img" '
        f'aria-label="SRCC of each model">{"".join(parts)}</svg>'
    )


def _axis(low: float, height: float, left: float, right: float) -> str:
    ticks = round(10 * (1 - low))
    parts = [f'<text x="{left:.1f}" y="12">SRCC</text>']
    for number in range(ticks + 1):
        x = left + (right - left) * number / ticks
        tick = f"{low + number / 10:.1f}"
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{MARGIN}" y2="{height - 6}" stroke="#8884"/>'
            f'<text x="{x:.1f}" y="{MARGIN - 6}" text-anchor="middle">{tick}</text>'
        )
    return "".join(parts)


def _label(text: str, y: float, *, grey: bool = False) -> str:
    colour = ' class="grey"' if grey else ""
    return f'<text x="{LABELS - 12}" y="{y + 4}" text-anchor="end"{colour}>{escape(text)}</text>'


def _segment(x1: float, x2: float, y: float, *, width: int) -> str:
    return (
        f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y}" y2="{y}" stroke="#0b62a8" '
        f'stroke-width="{width}" stroke-opacity="0.5"/>'
    )


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, printed_from: int | None = None
) -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(text)}</th>" for text in head) + "</tr>"]
    for number, row in enumerate(rows):
        quoted = printed_from is not None and number >= printed_from
        start = '<tr class="printed">' if quoted else "<tr>"
        lines.append(start + "".join(_cell(text) for text in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _cell(text: str) -> str:
    figure = text[:1].isdigit() or text[:1] in "+-<"
    return f'<td class="n">{escape(text)}</td>' if figure and text else f"<td>{escape(text)}</td>"
