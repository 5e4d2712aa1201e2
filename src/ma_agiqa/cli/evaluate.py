"""`ma-agiqa evaluate`, `probe` and `peer`: judge a model, stored vectors, or another measure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ma_agiqa.cli import options
from ma_agiqa.cli.journal import Journal
from ma_agiqa.cli.progress import progress
from ma_agiqa.cli.results import prepare_output
from ma_agiqa.errors import MAAGIQAError, UsageError

if TYPE_CHECKING:
    from ma_agiqa.bench.pyiqa_metrics import PyiqaMetric
    from ma_agiqa.data.samples import Samples
    from ma_agiqa.evaluation.probe import Probe
    from ma_agiqa.evaluation.report import EvaluationReport
    from ma_agiqa.types import Row

SplitPart = Annotated[
    str, typer.Option("--split", help="SPLIT:PART, such as paper:test or ipce-01:val.")
]
Target = Annotated[
    str | None, typer.Option("--target", help="Human score; else the one the model was trained on.")
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

ProbeStore = Annotated[Path, typer.Option("--store", help="Feature store from `ma-agiqa extract`.")]
SplitName = Annotated[
    str,
    typer.Option(
        "--split", help="paper, ipce-01, prompt-SEED ...: train fits, val chooses, test judges."
    ),
]
Vectors = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES", help="Questions whose vectors count, with commas between; else all."
    ),
]
Metric = Annotated[str, typer.Argument(help="Such as brisque, niqe, ilniqe, clipiqa.")]
FillWorst = Annotated[
    bool,
    typer.Option(
        "--fill-worst",
        help="Give images for which the measure has no number the worst of the other scores.",
    ),
]
Csv = Annotated[Path, typer.Option("--out", help="CSV of name and score to write.")]

PEER_KEYS = ("path", "score", "error")
"""What a row of `peer` holds."""

OF_A_MODEL = ("model", "device", "batch_size", "workers", "revision", "store", "lmm", "dtype")
"""Options that mean nothing beside --scores."""


def evaluate(
    context: typer.Context,
    data: options.Data,
    root: options.DataRoot,
    model: options.Model = "compact",
    split: SplitPart = "paper:test",
    target: Target = None,
    json: options.Json = None,
    predictions: options.Predictions = None,
    plot: Plot = None,
    resamples: options.Resamples = 1000,
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
        from ma_agiqa.data import datasets, splits
        from ma_agiqa.evaluation.evaluate import evaluate_scores

        _refuse_options_of_a_model(context)
        name, part = splits.parse(split, default_part="test")
        samples = datasets.load(data, root, columns)
        report = evaluate_scores(
            scores,
            samples,
            splits.resolve(name, samples, root),
            part,
            lower_is_better=lower_is_better,
            target=target,
            resamples=resamples,
            command=options.own_command(),
        )
    else:
        from ma_agiqa.evaluation.evaluate import evaluate as run
        from ma_agiqa.scorer import load

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
            command=options.own_command(),
        )
    if json is not None:
        report.to_json(json)
    if predictions is not None:
        report.write_predictions(predictions)
    if plot is not None:
        scatter(report, plot)
    render(report, Console())


def _refuse_options_of_a_model(context: typer.Context) -> None:
    """Raise UsageError if one of them was given beside --scores, where it changes nothing."""
    sources = {name: context.get_parameter_source(name) for name in OF_A_MODEL}
    given = [
        f"--{name.replace('_', '-')}"
        for name, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    ]
    if given:
        raise UsageError(f"{', '.join(given)} cannot be used beside --scores: leave out one")


def probe(
    store: ProbeStore,
    data: options.Data,
    root: options.DataRoot,
    split: SplitName = "paper",
    target: options.DatasetTarget = None,
    vectors: Vectors = None,
    json: options.Json = None,
    predictions: options.Predictions = None,
    resamples: options.Resamples = 1000,
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
        command=options.own_command(),
    )
    if json is not None:
        _write_probe(fitted, report, json)
    if predictions is not None:
        report.write_predictions(predictions)
    render(report, Console())
    typer.echo(
        f"ridge regression on {len(fitted.path.weights)} features "
        f"({', '.join(fitted.vectors)}) of {fitted.train} images; of {len(fitted.trials)} "
        f"strengths, {fitted.alpha:g} had the least squared error on {fitted.val} others"
    )


def _write_probe(fitted: Probe, report: EvaluationReport, path: Path) -> None:
    import json

    from ma_agiqa.evaluation.report import without_nan
    from ma_agiqa.files import write_atomically

    data = without_nan({**report.to_dict(), "probe": fitted.to_dict()})
    write_atomically(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def peer(
    metric: Metric,
    data: options.Data,
    root: options.DataRoot,
    out: Csv,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    image_column: options.ImageColumn = "image",
    score_column: options.ScoreColumn = "score",
    fill_worst: FillWorst = False,
) -> None:
    """Score a data set with a published measure through pyiqa, as CSV of name and score.

    The scores are as the library gives them. `ma-agiqa evaluate --scores` judges them. An image
    that fails is named and left out; scores are kept in OUT.partial until none fails, and a
    later run computes only what is not there.

    Exit status: 0 all good, 1 some images failed, 2 wrong use.
    """
    from ma_agiqa import devices
    from ma_agiqa.bench.pyiqa_metrics import PyiqaMetric, filled
    from ma_agiqa.data import datasets
    from ma_agiqa.data.samples import TableColumns
    from ma_agiqa.evaluation.evaluate import write_scores

    if out.suffix.lower() != ".csv":
        raise UsageError(f"{out}: scores are written as CSV", remedy="end the name in .csv")
    prepare_output(out)
    samples = datasets.load(data, root, TableColumns(image_column, score_column))
    measure = PyiqaMetric(metric, device=str(devices.resolve(device)))
    scores: dict[str, float] = {}
    without, failed = [], 0
    with (
        closing(Journal(out, model=measure.version, keys=PEER_KEYS)) as journal,
        progress(lambda: len(samples), title=metric, quiet=quiet) as shown,
    ):
        for row, no_number in _peer_rows(samples, measure, journal):
            if row["error"] is None:
                scores[row["path"]] = row["score"]
            elif fill_worst and no_number:
                without.append(row["path"])
                shown.say(f"the worst score: {row['path']}: {row['error']}")
            else:
                failed += 1
                shown.say(f"failed: {row['path']}: {row['error']}")
            shown.advance()
        found = filled(scores, without, lower_is_better=measure.lower_is_better)
        write_scores(out, {name: found[name] for name in samples.name if name in found})
        if failed:
            typer.echo(f"{failed} failed; a second run computes only those", err=True)
            raise typer.Exit(options.SOME_FAILED)
        journal.remove()
    better = "lower is better: judge it with --lower-is-better"
    typer.echo(better if measure.lower_is_better else "higher is better", err=True)


def _peer_rows(
    samples: Samples, measure: PyiqaMetric, journal: Journal
) -> Iterator[tuple[Row, bool]]:
    """Yield a row for each image, from an earlier run where its content is the same.

    Beside it, whether the measure was asked and gave no number.
    """
    from ma_agiqa.bench.pyiqa_metrics import NoScoreError
    from ma_agiqa.features.source import content_hash
    from ma_agiqa.images import read_bytes

    for name, path in zip(samples.name, samples.path, strict=True):
        row: Row | None = None
        sha256, no_number = None, False
        try:
            data = read_bytes(path)
            sha256 = content_hash(data)
            if journal.knows(name):
                row = journal.reusable(name, sha256)
            if row is None:
                row = dict(zip(PEER_KEYS, (name, measure(data, name=name), None), strict=True))
        except MAAGIQAError as error:
            no_number = isinstance(error, NoScoreError)
            row = dict(zip(PEER_KEYS, (name, None, error.without_path), strict=True))
        journal.append(sha256, row)
        yield row, no_number
