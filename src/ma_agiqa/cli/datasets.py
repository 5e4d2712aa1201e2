"""`ma-agiqa datasets`: the data sets in the registry, and whether a copy of one is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ma_agiqa.cli import exits, options
from ma_agiqa.cli.progress import progress

app = typer.Typer(
    help="List the known data sets; `show` describes one, `verify` checks a copy of it.",
    invoke_without_command=True,
)

Name = Annotated[str, typer.Argument(help="Name from `ma-agiqa datasets`.")]


@app.callback()
def datasets(context: typer.Context) -> None:
    """List the known data sets; `show` describes one, `verify` checks a copy of it."""
    if context.invoked_subcommand is not None:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from ma_agiqa.data.registry import DATASETS

    table = Table("name", "images", "targets", "scale", "licence", box=box.SIMPLE_HEAD)
    for name, spec in DATASETS.items():
        scale = f"{spec.scale.low:g} to {spec.scale.high:g}"
        table.add_row(name, str(spec.records), ", ".join(spec.targets), scale, spec.licence)
    Console().print(table)


@app.command()
def show(name: Name) -> None:
    """Describe one data set: files, scores, splits, licence, and where to download it."""
    from ma_agiqa.data import registry

    spec = registry.get(name)
    lines = {
        "title": spec.title,
        "images": f"{spec.records} in {spec.images}/",
        "scores": f"{spec.annotations}, from {spec.scale.low:g} to {spec.scale.high:g}",
        **{f"target {key}": target.meaning for key, target in spec.targets.items()},
        "splits": ", ".join(spec.splits),
        "licence": spec.licence,
        "citation": spec.citation,
        "download": ", ".join(spec.download),
    }
    width = max(map(len, lines))
    for key, text in lines.items():
        typer.echo(f"{key:<{width}}  {text}")


@app.command()
def verify(
    name: Name,
    root: Annotated[Path, typer.Option(help="Folder the data set lies in.")],
    workers: options.Workers = None,
    quiet: options.Quiet = False,
) -> None:
    """Say what is missing or damaged in a copy of a data set; exit 1 if anything is."""
    from ma_agiqa.data import registry
    from ma_agiqa.data import verify as verification

    spec = registry.get(name)
    with progress(lambda: spec.records, title="checking", quiet=quiet) as advance:
        report = verification.verify(spec, root, workers=workers, on_image=advance)
    for problem in report.problems:
        typer.echo(f"{problem.file}: {problem.reason} ({problem.remedy})")
    typer.echo(
        f"{report.sound} of {report.expected} images sound, {report.missing} missing, "
        f"{report.damaged} damaged",
        err=not report.ok,
    )
    raise typer.Exit(exits.OK if report.ok else exits.SOME_FAILED)
