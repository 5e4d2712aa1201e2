"""`ma-agiqa convert`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
