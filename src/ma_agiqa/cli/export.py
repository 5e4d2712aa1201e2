"""`ma-agiqa export`: a model as an ONNX file, or as a page that scores in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ma_agiqa.cli import options
from ma_agiqa.errors import UsageError


def export(
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier export is replaced.")],
    model: options.Model = "compact",
    revision: options.Revision = None,
    web: Annotated[
        bool, typer.Option("--web", help="Also a page that scores pictures in the browser.")
    ] = False,
    runtime: Annotated[
        Path | None,
        typer.Option(help="For the page: node_modules/onnxruntime-web/dist of npm."),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Write a model as ONNX: the folder is a model directory that onnxruntime runs.

    Scores are the same up to rounding. Only networks like that of `compact` can be exported.
    """
    from ma_agiqa.export.folder import NPM, write_folder
    from ma_agiqa.models.registry import find_directory

    if web != (runtime is not None):
        raise UsageError(
            "--web and --runtime go together",
            remedy=f"{NPM}, then --web --runtime node_modules/onnxruntime-web/dist",
        )
    directory = find_directory(model, revision=revision)
    if not quiet:
        typer.echo("exporting takes about half a minute", err=True)
    write_folder(directory, out, runtime=runtime)
    typer.echo(out)
    if web and not quiet:
        typer.echo(
            f"the page needs a web server: python -m http.server --directory {out}", err=True
        )
