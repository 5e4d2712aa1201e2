"""The commands put together, and errors turned into one line and a status.

A command's module imports heavy libraries inside its function, so `ma-agiqa --help` stays
fast. Results go to stdout, everything else to stderr.

Exit statuses: 0 all good, 1 some inputs failed, 2 wrong use, 3 a threshold was missed.
Set MA_AGIQA_DEBUG=1 to see the traceback of an error.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ma_agiqa.cli import (
    benchmark,
    data,
    evaluate,
    extract,
    gallery,
    models,
    options,
    scale,
    score,
    serve,
    sort,
    train,
)
from ma_agiqa.errors import MAAGIQAError
from ma_agiqa.text import for_terminal
from ma_agiqa.version import __version__


class Commands(TyperGroup):
    """A group whose commands end in a line on stderr and a status, never in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except MAAGIQAError as error:
            if os.environ.get("MA_AGIQA_DEBUG"):
                raise
            typer.echo(f"error: {for_terminal(str(error))}", err=True)
            raise typer.Exit(options.USAGE) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(options.INTERRUPTED) from error
        except BrokenPipeError as error:
            # What is still buffered would fail again when Python closes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(options.BROKEN_PIPE) from error


app = typer.Typer(
    name="ma-agiqa",
    cls=Commands,
    help="Quality scores for AI-generated images that agree with people.",
    epilog="Exit status: 0 all good, 1 some inputs failed, 2 wrong use, 3 a threshold was missed.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("score")(score.score)
app.command("score-many")(scale.score_many)
app.command("explain")(gallery.explain)
app.command("gallery")(gallery.gallery)
app.command("sort")(sort.sort)
app.command("serve")(serve.serve)
app.command("extract")(extract.extract)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("probe")(evaluate.probe)
app.command("benchmark")(benchmark.benchmark)
app.command("peer")(evaluate.peer)
app.command("convert")(models.convert)
app.command("convert-lmm")(models.convert_lmm)
app.command("export")(models.export)
app.command("models")(models.models)
app.add_typer(data.app, name="datasets")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ma-agiqa {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Quality scores for AI-generated images that agree with people."""


def main() -> None:
    """Run the command line; the console entry `ma-agiqa`."""
    # A program may be started without them (`>&-`, some daemons); what is written is then lost, and
    # no file that is opened later may get their numbers.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    app()
