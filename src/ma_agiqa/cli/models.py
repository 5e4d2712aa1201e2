"""`ma-agiqa models`: the models that have a name."""

from __future__ import annotations

from pathlib import Path

import typer


def models() -> None:
    """List the models that have a name; --model also takes a directory or a Hub id."""
    from ma_agiqa import presets

    for name, preset in presets.MODELS.items():
        typer.echo(
            f"{name}\n"
            f"    what     {preset.summary}\n"
            f"    needs    {preset.needs}\n"
            f"    here     {_where(preset.directory)}\n"
            f"    licence  {preset.licence}\n"
            f"    source   {preset.source}"
        )


def _where(directory: Path | None) -> str:
    """Say whether a preset's weights lie in this installation."""
    if directory is None:
        return "no, to be fetched"
    whole = all((directory / file).is_file() for file in ("config.json", "model.safetensors"))
    return str(directory) if whole else "missing from this installation"
