"""`ma-agiqa peer`: parse, call, print."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ma_agiqa.cli import exits, options, tables
from ma_agiqa.cli.journal import Journal
from ma_agiqa.cli.progress import progress
from ma_agiqa.cli.tables import Row
from ma_agiqa.errors import MAAGIQAError, UsageError

if TYPE_CHECKING:
    from ma_agiqa.bench.pyiqa_metrics import PyiqaMetric as Peer
    from ma_agiqa.data.samples import Samples

Metric = Annotated[str, typer.Argument(help="Such as brisque, niqe, ilniqe, clipiqa.")]
FillWorst = Annotated[
    bool,
    typer.Option(
        "--fill-worst",
        help="Give images for which the measure has no number the worst of the other scores.",
    ),
]
Csv = Annotated[Path, typer.Option("--out", help="CSV of name and score to write.")]


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
    from ma_agiqa.bench.pyiqa_metrics import PyiqaMetric as Peer
    from ma_agiqa.bench.pyiqa_metrics import filled
    from ma_agiqa.data import datasets
    from ma_agiqa.data.samples import TableColumns
    from ma_agiqa.evaluation.scores import write_scores

    if out.suffix.lower() != ".csv":
        raise UsageError(f"{out}: scores are written as CSV", remedy="end the name in .csv")
    tables.check_output(out)
    samples = datasets.load(data, root, TableColumns(image_column, score_column))
    measure = Peer(metric, device=str(devices.resolve(device)))
    scores: dict[str, float] = {}
    without, failed = [], 0
    with (
        closing(Journal(out, model=measure.version)) as journal,
        progress(lambda: len(samples), title=metric, quiet=quiet) as advance,
    ):
        for row, no_number in _rows(samples, measure, journal):
            if row["error"] is None:
                scores[row["path"]] = row["score"]
            elif fill_worst and no_number:
                without.append(row["path"])
                typer.echo(f"the worst score: {row['path']}: {row['error']}", err=True)
            else:
                failed += 1
                typer.echo(f"failed: {row['path']}: {row['error']}", err=True)
            advance()
        found = filled(scores, without, lower_is_better=measure.lower_is_better)
        write_scores(out, {name: found[name] for name in samples.name if name in found})
        if failed:
            typer.echo(f"{failed} failed; a second run computes only those", err=True)
            raise typer.Exit(exits.SOME_FAILED)
        journal.remove()
    better = "lower is better: judge it with --lower-is-better"
    typer.echo(better if measure.lower_is_better else "higher is better", err=True)


def _rows(samples: Samples, measure: Peer, journal: Journal) -> Iterator[tuple[Row, bool]]:
    """Yield a row for each image, from an earlier run where its content is the same.

    Beside it, whether the measure was asked and gave no number.
    """
    from ma_agiqa.bench.pyiqa_metrics import NoScoreError
    from ma_agiqa.features.content import content_hash
    from ma_agiqa.images import read_bytes
    from ma_agiqa.lookahead import reason

    for name, path in zip(samples.name, samples.path, strict=True):
        row: Row | None = None
        sha256, no_number = None, False
        try:
            data = read_bytes(path)
            sha256 = content_hash(data)
            if journal.knows(name):
                row = journal.reusable(name, sha256)
            if row is None:
                row = {"path": name, "score": measure(data, name=name), "error": None}
        except MAAGIQAError as error:
            no_number = isinstance(error, NoScoreError)
            row = {"path": name, "score": None, "error": reason(error)}
        journal.append(sha256, row)
        yield row, no_number
