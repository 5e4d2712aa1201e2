"""`ma-agiqa models`, `convert` and `convert-lmm`: model directories and what becomes one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    if directory is None:
        return "no"
    whole = all((directory / file).is_file() for file in ("config.json", "model.safetensors"))
    return str(directory) if whole else "missing from this installation"


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
