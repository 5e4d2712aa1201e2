"""`ma-agiqa explain` and `ma-agiqa gallery`: scores to look at."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ma_agiqa.cli import options, stream
from ma_agiqa.cli.inputs import Input, Listing, begun, count
from ma_agiqa.cli.journal import Journal
from ma_agiqa.cli.progress import progress
from ma_agiqa.cli.results import is_results, make_folder_of, read_results
from ma_agiqa.errors import ImageError, UsageError
from ma_agiqa.types import ROW_KEYS, SHOWN

if TYPE_CHECKING:
    from ma_agiqa.types import RGB, Score

Words = Annotated[
    list[str],
    typer.Argument(metavar="INPUT...", help="Images, folders, quoted globs, - for paths on stdin."),
]


def explain(
    words: Words,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the pictures.")],
    model: options.Model = "compact",
    revision: options.Revision = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    ignore_profiles: options.IgnoreProfiles = False,
    isolate: options.Isolate = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw why images have their scores: the quality map, and what each expert adds.

    One PNG for each image. Exit status: 0 all good, 1 some inputs failed, 2 wrong use.
    """
    items = begun(Listing(words))

    from ma_agiqa.files import atomic_path
    from ma_agiqa.gallery.arrange import free_name
    from ma_agiqa.gallery.picture import explained, is_explained, png
    from ma_agiqa.scorer import load

    scorer = load(model, revision=revision, device=device, workers=workers)
    there = out.iterdir() if out.is_dir() else ()  # only an earlier drawing is replaced
    names = {path.name.casefold() for path in there if not is_explained(path)}
    seen: dict[int, RGB] = {}
    done = failed = 0
    with (
        stream.readers(scorer, ignore_profiles, isolate) as read,
        progress(partial(count, words), title="explaining", quiet=quiet) as shown,
    ):
        for item, score in stream.scored(
            items,
            scorer,
            decode=read.decode,
            explain=True,
            look=lambda item, rgb: seen.update({id(item): rgb}),
        ):
            rgb = seen.pop(id(item), None)
            if score.error is not None:
                failed += 1
                shown.say(f"failed: {item.path}: {score.error}")
            else:
                place = out / free_name(f"{Path(item.path).stem}.png", names)
                with atomic_path(place) as temporary:
                    temporary.write_bytes(png(explained(rgb, score)))
                done += 1
            shown.advance()
    if not quiet:
        typer.echo(f"{done} explained in {out}, {failed} failed", err=True)
    raise typer.Exit(options.SOME_FAILED if failed else options.OK)


def gallery(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Images, folders, quoted globs, - for paths on stdin; or a result file of "
            "`score`, which is not scored again and shows no maps.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The gallery, an HTML file.")
    ] = Path("gallery.html"),
    title: Annotated[
        str | None, typer.Option(help="Of the page; else what the inputs are.")
    ] = None,
    model: options.Model = "compact",
    revision: options.Revision = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    ignore_profiles: options.IgnoreProfiles = False,
    isolate: options.Isolate = False,
    quiet: options.Quiet = False,
) -> None:
    """Make one HTML file to look through images by score: sort, filter, compare, choose.

    It opens by a double click and asks nothing of the network. A run that was stopped goes on
    where it was.

    Exit status: 0 all good, 1 some inputs failed, 2 wrong use.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"a gallery is an HTML file, got --out {out}", remedy="--out gallery.html")
    title = title or f"Scores of {', '.join(words[:3])}{' ...' if len(words) > 3 else ''}"
    if any(is_results(Path(word)) for word in words):
        if len(words) > 1:
            raise UsageError("a result file is shown alone", remedy="give one, or images")
        failed = _from_results(Path(words[0]), out, title=title, quiet=quiet)
    else:
        failed = _from_images(
            words,
            out,
            title=title,
            model=model,
            revision=revision,
            device=device,
            workers=workers,
            ignore_profiles=ignore_profiles,
            isolate=isolate,
            quiet=quiet,
        )
    raise typer.Exit(options.SOME_FAILED if failed else options.OK)


def _from_images(
    words: list[str],
    out: Path,
    *,
    title: str,
    model: str,
    revision: str | None,
    device: str,
    workers: int | None,
    ignore_profiles: bool,
    isolate: bool,
    quiet: bool,
) -> int:
    items = begun(Listing(words))

    from ma_agiqa.gallery.page import shown, thumbnail
    from ma_agiqa.models import checkpoint, registry
    from ma_agiqa.scorer import load

    scorer = load(model, revision=revision, device=device, workers=workers)
    fingerprint = checkpoint.fingerprint(registry.find_directory(model, revision=revision))
    fingerprint += "+colours as stored" if ignore_profiles else ""
    small: dict[int, str] = {}

    def more(item: Input, score: Score) -> dict[str, Any]:
        return {SHOWN: shown(score, thumbnail=small.pop(id(item), None))}

    make_folder_of(out)
    journal = Journal(out, model=f"gallery+{fingerprint}", keys=(*ROW_KEYS, SHOWN))
    failed = 0
    try:
        with (
            stream.readers(scorer, ignore_profiles, isolate) as read,
            progress(partial(count, words), title="scoring", quiet=quiet) as bar,
        ):
            for item, row, _ in stream.rows(
                (item.with_metadata(read.generation) for item in items),
                scorer,
                journal,
                decode=read.decode,
                explain=True,
                look=lambda item, rgb: small.update({id(item): thumbnail(rgb)}),
                more=more,
            ):
                journal.append(item.sha256, row)
                failed += row["error"] is not None
                bar.advance()
        _write(out, journal.rows, title=title, failed=failed, quiet=quiet)
        journal.remove()
    finally:
        journal.close()
    return failed


def _from_results(results: Path, out: Path, *, title: str, quiet: bool) -> int:
    from ma_agiqa.gallery.page import thumbnail
    from ma_agiqa.images import read_image

    found = read_results(results)
    if not found:
        raise UsageError(f"{results} holds no rows: there is nothing to show")
    failed = 0
    with progress(lambda: len(found), title="reading", quiet=quiet) as bar:
        for row in found:
            small = None
            failed += row["error"] is not None
            if row["error"] is None:
                try:
                    small = thumbnail(read_image(row["path"]))
                except ImageError as error:
                    bar.say(f"failed: {error}")
                    failed += 1
            row[SHOWN] = {"thumbnail": small}
            bar.advance()
    make_folder_of(out)
    _write(out, lambda: found, title=title, failed=failed, quiet=quiet)
    return failed


def _write(out: Path, rows: Any, *, title: str, failed: int, quiet: bool) -> None:
    from ma_agiqa.gallery.page import write_page

    number = write_page(out, rows, title=title)
    if not quiet:
        size = out.stat().st_size / 2**20
        typer.echo(f"{out}: {number} pictures, {failed} failed, {size:.1f} MiB", err=True)
