"""`ma-agiqa models`, `export`, `convert` and `convert-lmm`: model directories and their kin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ma_agiqa.cli import options


def models() -> None:
    """List the models that have a name; --model also takes a directory or a Hub id."""
    from ma_agiqa.models.registry import MODELS

    for name, entry in MODELS.items():
        typer.echo(
            f"{name}\n"
            f"    what     {entry.summary}\n"
            f"    needs    {entry.needs}\n"
            f"    here     {_where(entry.directory)}\n"
            f"    licence  {entry.licence}\n"
            f"    source   {entry.source}"
        )


def _where(directory: Path | None) -> str:
    """Say whether a model's weights lie in this installation."""
    from ma_agiqa.models.registry import CONFIG, WEIGHTS

    if directory is None:
        return "no"
    whole = all((directory / file).is_file() for file in (CONFIG, WEIGHTS))
    return str(directory) if whole else "missing from this installation"


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
    from ma_agiqa.errors import UsageError, require
    from ma_agiqa.export.folder import NPM, write_folder
    from ma_agiqa.export.graph import PACKAGES
    from ma_agiqa.models.registry import find_directory

    if web != (runtime is not None):
        raise UsageError(
            "--web and --runtime go together",
            remedy=f"{NPM}, then --web --runtime node_modules/onnxruntime-web/dist",
        )
    require("onnx", *PACKAGES)
    directory = find_directory(model, revision=revision)
    if not quiet:
        typer.echo("exporting takes about half a minute", err=True)
    write_folder(directory, out, runtime=runtime)
    typer.echo(out)
    if web and not quiet:
        typer.echo(
            f"the page needs a web server: python -m http.server --directory {out}", err=True
        )


def convert(
    official: Annotated[Path, typer.Argument(help="Checkpoint of the official code, a .pt file.")],
    out: Annotated[Path, typer.Option(help="Model directory to write.")],
    name: Annotated[str, typer.Option(help="What results call the model.")] = "paper",
    low: Annotated[float, typer.Option(help="Low end of the scale it was trained on.")] = 0.0,
    high: Annotated[float, typer.Option(help="High end of that scale.")] = 5.0,
) -> None:
    """Turn an official checkpoint into a model directory; every tensor is accounted for."""
    from ma_agiqa.errors import UsageError
    from ma_agiqa.models.paper.convert import convert_file
    from ma_agiqa.types import Scale

    if not low < high:
        raise UsageError(f"the scale must rise, got --low {low:g} --high {high:g}")
    conversion = convert_file(official, out, name=name, scale=Scale(low=low, high=high))
    for tensor, reason in conversion.dropped.items():
        typer.echo(f"dropped {tensor}: {reason}", err=True)
    typer.echo(
        f"{len(conversion.mapped)} tensors converted ({conversion.layout} transforms), "
        f"{len(conversion.checked)} tables checked, {len(conversion.dropped)} tensors dropped",
        err=True,
    )
    typer.echo(out)


def convert_lmm(
    lmm: Annotated[
        str, typer.Argument(metavar="LMM", help="mplug-owl2, a checkpoint directory, a Hub id.")
    ],
    out: Annotated[Path, typer.Option(help="Checkpoint directory to write; must be new.")],
) -> None:
    """Write a safetensors copy of an LMM, which loads faster and holds no pickles.

    Names, values and dtypes stay, and so does the fingerprint that feature stores know.
    """
    from ma_agiqa.lmm.encoder import LMMS
    from ma_agiqa.lmm.mplug_owl2.checkpoint import convert_to_safetensors

    typer.echo(convert_to_safetensors(LMMS.get(lmm, lmm), out))
