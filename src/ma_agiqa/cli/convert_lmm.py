"""`ma-agiqa convert-lmm`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
