"""`ma-agiqa probe`: parse, call, print."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ma_agiqa.cli import options
from ma_agiqa.errors import UsageError

if TYPE_CHECKING:
    from ma_agiqa.evaluation.probe import Probe
    from ma_agiqa.evaluation.report import EvaluationReport

Store = Annotated[Path, typer.Option("--store", help="Feature store from `ma-agiqa extract`.")]
SplitName = Annotated[
    str,
    typer.Option(
        "--split", help="paper, ipce-01, prompt-SEED ...: train fits, val chooses, test judges."
    ),
]
Target = Annotated[
    str | None, typer.Option("--target", help="Human score; else the data set's own.")
]
Vectors = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES", help="Questions whose vectors count, with commas between; else all."
    ),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]
Predictions = Annotated[
    Path | None, typer.Option(help="Write name, human score and prediction of each image as CSV.")
]
Resamples = Annotated[int, typer.Option(min=100, help="Bootstrap resamples of the intervals.")]


def probe(
    store: Store,
    data: options.Data,
    root: options.DataRoot,
    split: SplitName = "paper",
    target: Target = None,
    vectors: Vectors = None,
    json: Json = None,
    predictions: Predictions = None,
    resamples: Resamples = 1000,
    image_column: options.ImageColumn = "image",
    score_column: options.ScoreColumn = "score",
    prompt_column: options.PromptColumn = None,
) -> None:
    """Judge stored vectors by ridge regression: the baseline of every encoder, in seconds."""
    from rich.console import Console

    from ma_agiqa.data import datasets, splits
    from ma_agiqa.data.samples import TableColumns
    from ma_agiqa.evaluation.probe import probe as run
    from ma_agiqa.evaluation.report import render
    from ma_agiqa.features.store import FeatureStore

    name, part = splits.parse(split, default_part="test")
    if part != "test":
        raise UsageError(
            f"--split {split}: a probe is judged on test, as val chooses its strength",
            remedy=f"--split {name}",
        )
    samples = datasets.load(data, root, TableColumns(image_column, score_column, prompt_column))
    opened = FeatureStore.open(store)
    for error in opened.damaged.values():
        typer.echo(f"warning: {error}", err=True)
    fitted, report = run(
        opened,
        samples,
        splits.resolve(name, samples, root),
        target=target,
        vectors=None if vectors is None else [word.strip() for word in vectors.split(",")],
        resamples=resamples,
        command=shlex.join(["ma-agiqa", *sys.argv[1:]]),
    )
    if json is not None:
        _write(fitted, report, json)
    if predictions is not None:
        report.write_predictions(predictions)
    render(report, Console())
    typer.echo(
        f"ridge regression on {len(fitted.path.weights)} features "
        f"({', '.join(fitted.vectors)}) of {fitted.train} images; of {len(fitted.trials)} "
        f"strengths, {fitted.alpha:g} had the least squared error on {fitted.val} others"
    )


def _write(fitted: Probe, report: EvaluationReport, path: Path) -> None:
    import json

    from ma_agiqa.evaluation.report import without_nan
    from ma_agiqa.files import write_atomically

    data = without_nan({**report.to_dict(), "probe": fitted.to_dict()})
    write_atomically(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
