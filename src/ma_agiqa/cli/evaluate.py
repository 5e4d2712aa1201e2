"""`ma-agiqa evaluate`: parse, call, print."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ma_agiqa.cli import options
from ma_agiqa.errors import UsageError

if TYPE_CHECKING:
    from ma_agiqa.data.samples import TableColumns
    from ma_agiqa.evaluation.report import EvaluationReport

SplitPart = Annotated[
    str, typer.Option("--split", help="SPLIT:PART, such as paper:test or ipce-01:val.")
]
Target = Annotated[
    str | None,
    typer.Option("--target", help="Human score; else the one the model was trained on."),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]
Predictions = Annotated[
    Path | None, typer.Option(help="Write name, human score and prediction of each image as CSV.")
]
Plot = Annotated[
    Path | None, typer.Option(help="Draw prediction against MOS here (.png, .svg or .pdf).")
]
Scores = Annotated[
    Path | None,
    typer.Option("--scores", help="In place of a model: CSV of name and score, by any program."),
]
LowerIsBetter = Annotated[
    bool, typer.Option("--lower-is-better", help="Of --scores: negate them, and say so.")
]
Resamples = Annotated[int, typer.Option(min=100, help="Bootstrap resamples of the intervals.")]


OF_A_MODEL = ("model", "device", "batch_size", "workers", "revision", "store", "lmm", "dtype")
"""Options that mean nothing beside --scores."""


def evaluate(
    context: typer.Context,
    data: options.Data,
    root: options.DataRoot,
    model: options.Model = "compact",
    split: SplitPart = "paper:test",
    target: Target = None,
    json: Json = None,
    predictions: Predictions = None,
    plot: Plot = None,
    resamples: Resamples = 1000,
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    revision: options.Revision = None,
    store: options.Store = None,
    lmm: options.Lmm = None,
    dtype: options.Dtype = None,
    scores: Scores = None,
    lower_is_better: LowerIsBetter = False,
    image_column: options.ImageColumn = "image",
    score_column: options.ScoreColumn = "score",
    prompt_column: options.PromptColumn = None,
) -> None:
    """Measure a model against human scores, with a 95% interval beside every number.

    Nothing is dropped: an image that is missing or cannot be scored ends the evaluation.
    """
    from rich.console import Console

    from ma_agiqa.data.samples import TableColumns
    from ma_agiqa.evaluation.report import check_plot, render, scatter

    columns = TableColumns(image_column, score_column, prompt_column)
    if lower_is_better and scores is None:
        raise UsageError("--lower-is-better belongs to --scores")
    if plot is not None:
        check_plot(plot)
    if scores is not None:
        _refuse(context, OF_A_MODEL, beside="--scores")
        report = _of_scores(scores, lower_is_better, data, root, split, target, columns, resamples)
    else:
        from ma_agiqa.evaluation.report import evaluate as run
        from ma_agiqa.inference import load

        scorer = load(
            model,
            device=device,
            batch_size=batch_size,
            workers=workers,
            revision=revision,
            store=store,
            lmm=lmm,
            dtype=dtype,
        )
        report = run(
            scorer,
            data=data,
            root=root,
            split=split,
            target=target,
            columns=columns,
            resamples=resamples,
            command=_command(),
        )
    if json is not None:
        report.to_json(json)
    if predictions is not None:
        report.write_predictions(predictions)
    if plot is not None:
        scatter(report, plot)
    render(report, Console())


def _refuse(context: typer.Context, names: tuple[str, ...], *, beside: str) -> None:
    """Raise UsageError if one of the options was given, which would change nothing."""
    sources = {name: context.get_parameter_source(name) for name in names}
    given = [
        f"--{name.replace('_', '-')}"
        for name, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    ]
    if given:
        raise UsageError(f"{', '.join(given)} cannot be used beside {beside}: leave out one")


def _of_scores(
    scores: Path,
    lower_is_better: bool,
    data: str,
    root: Path,
    split: str,
    target: str | None,
    columns: TableColumns,
    resamples: int,
) -> EvaluationReport:
    from ma_agiqa.data import datasets, splits
    from ma_agiqa.evaluation.report import evaluate_scores

    name, part = splits.parse(split, default_part="test")
    samples = datasets.load(data, root, columns)
    return evaluate_scores(
        scores,
        samples,
        splits.resolve(name, samples, root),
        part,
        lower_is_better=lower_is_better,
        target=target,
        resamples=resamples,
        command=_command(),
    )


def _command() -> str:
    return shlex.join(["ma-agiqa", *sys.argv[1:]])
