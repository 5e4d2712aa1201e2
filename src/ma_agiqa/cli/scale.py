"""`ma-agiqa score-many`: plan a job, run it on an engine, say how it ended.

What this file does not do: score, or know what a job keeps where; see `scale/`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ma_agiqa.cli import options
from ma_agiqa.cli.progress import progress
from ma_agiqa.errors import UsageError

if TYPE_CHECKING:
    from ma_agiqa.scale.job import Chunk, Job

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder, archive, Parquet file, saved data set, or a folder of these; a path or any "
        "address that fsspec opens: s3://, gs://, az://, ...",
    ),
]
Out = Annotated[
    str,
    typer.Option(
        "--out",
        metavar="PLACE",
        help="Folder or address for the result, scores-*.parquet, which appears when all is done. "
        "Until then the same command goes on after a stop; after it, it tries failed rows again.",
    ),
]
Column = Annotated[
    str | None, typer.Option(help="Of Parquet files: the column with images, paths or addresses.")
]
Id = Annotated[
    str | None, typer.Option("--id", help="Of Parquet files: the column that names the images.")
]
Contributions = Annotated[
    bool, typer.Option("--contributions", help="Rows also say what each expert adds.")
]
MayRedo = Annotated[
    int | None,
    typer.Option(
        "--may-redo",
        min=1,
        show_default="1000",
        help="Most pictures that a kill makes the next run score again. With hundreds of workers "
        "give more, else each keeps its scores in very many small files.",
    ),
]
Isolate = Annotated[
    bool,
    typer.Option(
        help="Decode in child processes: an image that makes its decoder crash is one failed row."
    ),
]


def score_many(
    source: Source,
    out: Out,
    engine: options.EngineOption = options.Engine.here,
    address: options.Address = None,
    workers: options.RayWorkers = None,
    gpus: options.Gpus = 0.0,
    model: options.Model = "compact",
    revision: options.Revision = None,
    lmm: options.Lmm = None,
    dtype: options.Dtype = None,
    device: options.Device = "auto",
    column: Column = None,
    names: Id = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder that paths in a table start from; else its own.")
    ] = None,
    contributions: Contributions = False,
    may_redo: MayRedo = None,
    isolate: Isolate = True,
    quiet: options.Quiet = False,
) -> None:
    """Score a source of any size into Parquet files, on one machine or a cluster.

    A bad image becomes a row with an error. A kill at any moment loses a few hundred scores of
    each worker at most; the same command goes on.

    Exit status: 0 all good, 1 some images failed, 2 wrong use.
    """
    if engine is options.Engine.here and (address is not None or workers is not None or gpus):
        raise UsageError("--address, --ray-workers and --gpus belong to --engine ray")

    from ma_agiqa.data import sources
    from ma_agiqa.models import checkpoint, registry
    from ma_agiqa.scale import engines
    from ma_agiqa.scale.job import MOST_TWICE, Job

    count = workers or (engines.default_workers(device) if engine is options.Engine.ray else 1)
    fingerprint = checkpoint.fingerprint(registry.find_directory(model, revision=revision))
    with ExitStack() as stack:
        if not sources.is_address(out):
            from ma_agiqa.files import lock_folder

            stack.enter_context(lock_folder(Path(out)))
        units = sources.plan(
            source,
            column=column,
            names=names,
            folder=None if root is None else str(root),
            out=out,
        )
        settings = {
            "model": model,
            "revision": revision,
            "lmm": lmm,
            "dtype": dtype,
            "device": device,
            "threads": None if engine is options.Engine.here else 1,
            "contributions": contributions,
            "isolate": isolate,
        }
        job = Job.begin(
            out,
            units,
            settings,
            fingerprint=f"{fingerprint}+{lmm}+{dtype}",
            workers=count,
            most_twice=may_redo or MOST_TWICE,
        )
        started = time.monotonic()
        shown = stack.enter_context(
            progress(lambda: sources.count(units), title="scoring", quiet=quiet)
        )
        shown.advance(job.reused)
        try:
            for chunk in _chunks(job, engine, address=address, workers=count, gpus=gpus):
                job.add(chunk)
                shown.advance(chunk.rows)
        except KeyboardInterrupt:
            typer.echo(
                f"interrupted: what is done lies in {out}; the same command goes on", err=True
            )
            raise typer.Exit(options.INTERRUPTED) from None
        scored, failed = job.write_result()
    if not quiet:
        typer.echo(_summary(job, scored, failed, time.monotonic() - started), err=True)
    raise typer.Exit(options.SOME_FAILED if failed else options.OK)


def _chunks(
    job: Job, engine: options.Engine, *, address: str | None, workers: int, gpus: float
) -> Iterator[Chunk]:
    from ma_agiqa.scale import engines
    from ma_agiqa.scale.job import Chunk, Worker

    tasks = [task.to_json() for task in job.tasks()]
    make = partial(Worker, job.settings)
    if engine is options.Engine.here:
        names = engines.run_here(tasks, make)
    else:
        names = engines.run_on_ray(tasks, make, address=address, workers=workers, gpus=gpus)
    return filter(None, map(Chunk.from_name, names))


def _summary(job: Job, scored: int, failed: int, seconds: float) -> str:
    fresh = scored - job.reused
    rate = f", {fresh / seconds:.1f} images/s" if fresh and seconds > 0 else ""
    return (
        f"{scored + failed} images: {fresh} scored{rate}, {job.reused} scored before, "
        f"{failed} failed; {job.place.address}"
    )
