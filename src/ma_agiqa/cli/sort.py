"""`ma-agiqa sort`: copy or move pictures by score, write ratings, undo."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ma_agiqa.cli import options, stream
from ma_agiqa.cli.inputs import Listing, begun, count
from ma_agiqa.cli.progress import progress
from ma_agiqa.cli.results import Few, is_results, read_results
from ma_agiqa.errors import ImageError, UsageError
from ma_agiqa.text import for_terminal, join_some

if TYPE_CHECKING:
    from ma_agiqa.gallery.arrange import Step
    from ma_agiqa.types import Row

PREVIEW = 10
"""Steps of a plan that are shown."""


def sort(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INPUT...]", help="A result file of `score`, or images, folders, quoted globs."
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Where chosen pictures go.")
    ] = None,
    best: Annotated[int | None, typer.Option(metavar="K", min=1, help="Choose the K best.")] = None,
    worst: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="Choose the K worst.")
    ] = None,
    below: Annotated[
        float | None, typer.Option(metavar="X", help="Choose those that score below X.")
    ] = None,
    move: Annotated[bool, typer.Option("--move", help="Move; else pictures are copied.")] = False,
    write_rating: Annotated[
        str | None,
        typer.Option(
            metavar="adobe|darktable|both",
            help="Write 1 to 5 stars by percentile into XMP sidecars (a.xmp, a.jpg.xmp), never "
            "over a rating that a person gave.",
        ),
    ] = None,
    undo: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Move files back by the undo.jsonl of DIR.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    model: options.Model = "compact",
    device: options.Device = "auto",
    workers: options.Workers = None,
    quiet: options.Quiet = False,
) -> None:
    """Copy or move the best or the worst pictures into a folder, or rate them beside their files.

    What would be done is shown first. Nothing is deleted or overwritten, and moves can be undone.

    Exit status: 0 all good, 1 some inputs failed, 2 wrong use.
    """
    from ma_agiqa.gallery import arrange

    if undo is not None:
        back, left = arrange.undo(undo)
        typer.echo(f"{len(back)} moved back, {len(left)} could not be: {_names(left)}", err=True)
        raise typer.Exit(options.SOME_FAILED if left else options.OK)
    schemes = _schemes(write_rating)
    chosen = [choice for choice in (best, worst, below) if choice is not None]
    if not words or len(chosen) > 1 or (to is None) != (not chosen) or not (chosen or schemes):
        raise UsageError(
            "say what to do with which pictures",
            remedy="sort INPUT --best K --to DIR, or --worst K, or --below X; or --write-rating",
        )
    rows, failed = _rows(words, model=model, device=device, workers=workers, quiet=quiet)
    away = [row["path"] for row in rows if not os.path.lexists(row["path"])]
    if away:
        raise UsageError(
            f"{away[0]} is no file of this machine: it lies in an archive or a store, or is gone",
            remedy="unpack it, or fetch it, and score it there",
        )
    if to is not None:
        steps = arrange.plan([row["path"] for row in _chosen(rows, best, worst, below)], to)
        if _agreed(steps, move=move, yes=yes):
            done = list(arrange.carry_out(steps, to, move=move))
            if not quiet:
                typer.echo(f"{len(done)} {'moved' if move else 'copied'} to {to}", err=True)
            if move:  # and are rated where they are now
                now = {os.fspath(step.source): os.fspath(step.target) for step in done}
                rows = [{**row, "path": now.get(row["path"], row["path"])} for row in rows]
    if schemes:
        failed += _rate(rows, schemes, yes=yes, quiet=quiet)
    raise typer.Exit(options.SOME_FAILED if failed else options.OK)


def _schemes(wanted: str | None) -> tuple[str, ...]:
    from ma_agiqa.gallery.arrange import SCHEMES

    if wanted is None:
        return ()
    if wanted not in (*SCHEMES, "both"):
        raise UsageError(f"unknown sidecars {wanted!r}", remedy=f"{', '.join(SCHEMES)}, or both")
    return SCHEMES if wanted == "both" else (wanted,)


def _rows(
    words: list[str], *, model: str, device: str, workers: int | None, quiet: bool
) -> tuple[list[Row], int]:
    """Return the rows that have a score, and how many have none."""
    found: list[Row] = []
    if any(is_results(Path(word)) for word in words):
        found = list(chain.from_iterable(read_results(Path(word)) for word in words))
    else:
        items = begun(Listing(words))

        from ma_agiqa.images import decode
        from ma_agiqa.scorer import load

        scorer = load(model, device=device, workers=workers)
        with progress(partial(count, words), title="scoring", quiet=quiet) as shown:
            for _, row, _ in stream.rows(items, scorer, None, decode=decode):
                found.append(row)
                if row["error"] is not None:
                    shown.say(f"failed: {row['path']}: {row['error']}")
                shown.advance()
    scored = [row for row in found if row["score"] is not None]
    return scored, len(found) - len(scored)


def _chosen(rows: list[Row], best: int | None, worst: int | None, below: float | None) -> list[Row]:
    if below is not None:
        return [row for row in rows if row["score"] < below]
    few = Few(best or worst or 0, worst=worst is not None)
    for row in rows:
        few.add(row)
    return few.rows()


def _agreed(steps: Sequence[Step], *, move: bool, yes: bool) -> bool:
    """Show what would be done, and ask."""
    if not steps:
        typer.echo("nothing to do: no such picture, or all are there", err=True)
        return False
    for step in steps[:PREVIEW]:
        verb = "move" if move else "copy"
        typer.echo(for_terminal(f"{verb} {step.source} -> {step.target}"), err=True)
    if len(steps) > PREVIEW:
        typer.echo(f"and {len(steps) - PREVIEW} more", err=True)
    return _asked(yes)


def _asked(yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        typer.echo("nothing was done: --yes does it", err=True)
        return False
    return typer.confirm("go on?", err=True)


def _rate(rows: list[Row], schemes: Sequence[str], *, yes: bool, quiet: bool) -> int:
    from ma_agiqa.gallery.arrange import write_rating

    typer.echo(f"write {' and '.join(schemes)} sidecars of {len(rows)} pictures", err=True)
    if not _asked(yes):
        return 0
    written = failed = 0
    for row in rows:
        try:
            reason = write_rating(row, schemes)
        except ImageError as error:
            typer.echo(for_terminal(f"failed: {error}"), err=True)
            failed += 1
            continue
        written += reason is None
        if reason is not None and not quiet:
            typer.echo(for_terminal(f"left alone: {row['path']}: {reason}"), err=True)
    if not quiet:
        typer.echo(f"{written} rated, {len(rows) - written - failed} left alone", err=True)
    return failed


def _names(steps: Sequence[Step]) -> str:
    return for_terminal(join_some([str(step.source) for step in steps]))
