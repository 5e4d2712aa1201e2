"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option("--model", help="Name from `ma-agiqa models`, a model directory, a Hub id.")
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Commit, tag or branch of a Hub id.")
]
Device = Annotated[
    str, typer.Option("--device", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps.")
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Most images per forward pass; changes no score."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Threads that decode images.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]
