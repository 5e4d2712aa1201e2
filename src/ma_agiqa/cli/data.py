"""`ma-agiqa datasets`: the data sets in the registry, and copies of them on this disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ma_agiqa.cli import options
from ma_agiqa.cli.progress import progress
from ma_agiqa.errors import UsageError

if TYPE_CHECKING:
    from ma_agiqa.data.datasets import Dataset

app = typer.Typer(
    help="List the known data sets; `show` describes one, `download` fetches it, `verify` checks "
    "a copy, `downsize` makes a copy with smaller images.",
    invoke_without_command=True,
)

Name = Annotated[str, typer.Argument(help="Name from `ma-agiqa datasets`.")]
Root = Annotated[Path, typer.Option(help="Folder the data set lies in.")]


@app.callback()
def datasets(context: typer.Context) -> None:
    """Print the table of known data sets, unless a subcommand was given."""
    if context.invoked_subcommand is not None:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from ma_agiqa.data.datasets import DATASETS

    table = Table("name", "images", "targets", "scale", "licence", box=box.SIMPLE_HEAD)
    for name, info in DATASETS.items():
        scale = f"{info.scale.low:g} to {info.scale.high:g}"
        table.add_row(name, str(info.records), ", ".join(info.targets), scale, info.licence)
    Console().print(table)


@app.command()
def show(name: Name) -> None:
    """Describe one data set: files, scores, splits, licence, and where to download it."""
    from ma_agiqa.data.datasets import get

    lines = _description(get(name))
    width = max(len(key) for key, _ in lines)
    for key, text in lines:
        typer.echo(f"{key:<{width}}  {text}")


@app.command()
def download(
    name: Name,
    root: Annotated[Path, typer.Option(help="Folder to put the data set into.")],
    revision: options.Revision = None,
) -> None:
    """Fetch a data set from the Hub, or say where else it is; goes on where it stopped."""
    from ma_agiqa.data.datasets import get
    from ma_agiqa.data.verify import download as fetch

    info = get(name)
    if info.hub is None:
        for key, text in _description(info):
            if key in ("download", "unpack"):
                typer.echo(f"{key:<8}  {text}")
        raise UsageError(f"{info.title} is not on the Hub: see the addresses above")
    commit = fetch(info, root, revision=revision)
    typer.echo(f"{info.hub.repository} at commit {commit} is in {root}")
    for step in (*info.hub.then, f"check it: ma-agiqa datasets verify {name} --root {root}"):
        typer.echo(step)


@app.command()
def verify(
    name: Name, root: Root, workers: options.Workers = None, quiet: options.Quiet = False
) -> None:
    """Say what is missing or damaged in a copy of a data set; exit 1 if anything is."""
    from ma_agiqa.data.datasets import get
    from ma_agiqa.data.verify import verify as check

    info = get(name)
    with progress(lambda: info.records, title="checking", quiet=quiet) as shown:
        report = check(info, root, workers=workers, on_image=shown.advance)
    for problem in report.problems:
        typer.echo(f"{problem.file}: {problem.reason} ({problem.remedy})")
    for caveat in report.caveats:
        typer.echo(caveat, err=not report.ok)
    if report.unchecked:
        files = ", ".join(report.unchecked)
        typer.echo(f"content not compared, no checksum is known: {files}", err=not report.ok)
    if report.records == 0:
        typer.echo("images were not looked for", err=True)
        raise typer.Exit(options.SOME_FAILED)
    typer.echo(
        f"{report.sound} of {report.expected} images sound ({report.size / 1e9:.2f} GB), "
        f"{report.missing} missing, {report.damaged} damaged",
        err=not report.ok,
    )
    raise typer.Exit(options.OK if report.ok else options.SOME_FAILED)


@app.command()
def downsize(
    name: Name,
    root: Root,
    out: Annotated[Path, typer.Option(help="Folder for the copy; a stopped run goes on there.")],
    short_side: Annotated[
        int, typer.Option(min=1, help="Pixels: longer shorter sides are reduced to this.")
    ] = 512,
    workers: options.Workers = None,
    quiet: options.Quiet = False,
) -> None:
    """Copy a data set with images reduced, as others do with SPAQ; the copy says so itself."""
    from ma_agiqa.data.datasets import get, load
    from ma_agiqa.data.downsize import downsize as reduce

    info = get(name)
    with progress(lambda: info.records, title="reducing", quiet=quiet) as shown:
        done = reduce(
            load(name, root),
            root,
            out,
            short_side=short_side,
            workers=workers,
            on_image=shown.advance,
        )
    for file, reason in done.failed.items():
        typer.echo(f"{file}: {reason}")
    typer.echo(
        f"{done.reduced} images reduced, {done.copied} copied, {done.present} there already, "
        f"{len(done.failed)} failed",
        err=bool(done.failed),
    )
    raise typer.Exit(options.SOME_FAILED if done.failed else options.OK)


def _description(info: Dataset) -> list[tuple[str, str]]:
    """Return what there is to say about a data set, a line each."""
    from itertools import groupby

    scale = f"{info.scale.low:g} to {info.scale.high:g}"
    general = ["random-SEED", "random-8-2-SEED"]
    general += [] if info.photographs else ["prompt-SEED", "unseen-GENERATOR"]
    lines = [
        ("title", info.title),
        ("images", f"{info.records}, as {' or '.join(info.images)}"),
        *(("scores", files) for files in info.annotations),
        *(
            (f"target {name}", f"{target.meaning}, {scale}")
            for name, target in info.targets.items()
        ),
    ]
    for what, names in groupby(info.splits, key=lambda name: info.splits[name]):
        alike = list(names)
        name = alike[0] if len(alike) == 1 else f"{alike[0]} to {alike[-1]}"
        lines.append((f"split {name}", what))
    return [
        *lines,
        ("other splits", ", ".join(general)),
        ("licence", info.licence),
        ("citation", info.citation),
        *(("download", address) for address in info.download),
        *(("unpack", step) for step in info.unpack),
    ]
