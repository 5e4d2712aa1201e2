"""`ma-agiqa datasets`: the data sets in the registry, and whether a copy of one is whole."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="List the known data sets, describe one, or check a copy of it.",
    invoke_without_command=True,
)
