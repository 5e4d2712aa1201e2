"""`ma-agiqa models`: the models that have a name."""

from __future__ import annotations

from pathlib import Path


def models() -> None:
    """List the models that have a name; --model also takes a directory or a Hub id."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from ma_agiqa import presets

    table = Table("name", "what it is", "needs", "here", "licence", "source", box=box.SIMPLE_HEAD)
    for name, preset in presets.MODELS.items():
        here = _where(preset.directory)
        table.add_row(name, preset.summary, preset.needs, here, preset.licence, preset.source)
    Console().print(table)


def _where(directory: Path | None) -> str:
    """Say whether a preset's weights lie in this installation."""
    if directory is None:
        return "to be fetched"
    return "yes" if (directory / "config.json").is_file() else "missing from this installation"
