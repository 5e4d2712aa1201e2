"""`ma-agiqa evaluate`: parse, call, print."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Option(help="Preset name, model directory or Hub id.")],
    data: Annotated[str, typer.Option(help="Data set, as `ma-agiqa datasets` names it.")],
    root: Annotated[Path, typer.Option(help="Folder the data set lies in.")],
    split: Annotated[
        str, typer.Option(help="SPLIT:PART, such as paper:test or ipce-01:val.")
    ] = "paper:test",
    target: Annotated[
        str | None, typer.Option(help="Human score; default: the one the model was trained on.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the whole report here.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw prediction against MOS here (PNG, SVG or PDF).")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of the intervals.")] = 1000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 8,
    workers: Annotated[int, typer.Option(help="Decoding threads.")] = 2,
) -> None:
    """Measure a model against human scores, with a 95% interval beside every number."""
    from ma_agiqa.inference import load
    from rich.console import Console

    from ma_agiqa.evaluation.protocol import evaluate as run

    scorer = load(model, device=device, batch_size=batch_size, workers=workers)
    report = run(
        scorer,
        data=data,
        root=root,
        split=split,
        target=target,
        resamples=resamples,
        command=shlex.join(["ma-agiqa", *sys.argv[1:]]),
    )
    if json is not None:
        report.to_json(json)
    if plot is not None:
        report.scatter(plot)
    report.render(Console())
