"""`ma-agiqa benchmark`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ma_agiqa.cli import options
from ma_agiqa.cli.progress import TrainingProgress

File = Annotated[Path, typer.Argument(metavar="FILE.toml", help="The grid; see docs/benchmark.md.")]
Out = Annotated[Path, typer.Option(help="Folder of results; finished cells in it are kept.")]
Check = Annotated[bool, typer.Option("--check", help="Look everything up, list the cells, stop.")]

Jobs = Annotated[
    int, typer.Option(min=1, help="Trainings at once, each in a process; they share the device.")
]


def benchmark(
    file: File,
    out: Out,
    device: options.Device = "auto",
    jobs: Jobs = 1,
    check: Check = False,
    quiet: options.Quiet = False,
) -> None:
    """Run a declared grid of models, data sets, splits and seeds; resumable.

    Writes results.json and results.md into OUT. What is wrong with the grid is found before any
    work.

    Exit status: 0 all good, 1 some cells failed, 2 wrong use.
    """
    from ma_agiqa.bench import report
    from ma_agiqa.bench.grid import read_grid
    from ma_agiqa.bench.run import prepare, run

    grid = read_grid(file)
    if check:
        for job in prepare(grid)[1]:
            typer.echo(job.title)
        return
    with News(quiet=quiet) as news:
        outcome = run(grid, out, device=device, at_once=jobs, observer=news)
    text = report.write(outcome, out, command=options.own_command())
    typer.echo(text, nl=False)
    raise typer.Exit(options.SOME_FAILED if outcome.failures else options.OK)


class News(TrainingProgress):
    """A line per cell on stderr, and below it the bar of a training."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__()
        self.quiet = quiet

    def __enter__(self) -> News:
        super().__enter__()
        return self

    def cell(self, number: int, total: int, title: str, *, kept: bool) -> None:
        if not self.quiet:
            kept_note = " (kept)" if kept else ""
            self.note(f"[{number}/{total}] {title}{kept_note}")

    def failed(self, title: str, error: str) -> None:
        self.note(f"failed: {title}: {error}")
