"""The options of every command are frozen: a change shows up in review as a changed line.

`MA_AGIQA_UPDATE_SNAPSHOTS=1 pytest tests/cli/test_help_snapshots.py` writes them anew.
Width, colour and the boxes around the options are left out: what counts is what is said.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import typer
from click import Context, Group
from typer.testing import CliRunner

from ma_agiqa.cli import app

SNAPSHOTS = Path(__file__).parent / "snapshots"
UPDATE = bool(os.environ.get("MA_AGIQA_UPDATE_SNAPSHOTS"))


def commands(command: object, words: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Return every command below this one, as a name for its file and the words to call it."""
    found = {"-".join(words) or "ma-agiqa": words}
    if hasattr(command, "commands"):
        group: Group = command
        for name in group.list_commands(Context(group)):
            found |= commands(group.commands[name], (*words, name))
    return found


COMMANDS = commands(typer.main.get_command(app))
WRITTEN_WITH = (0, 29)
"""Of typer. Earlier ones lay a help out in another way."""


@pytest.mark.skipif(
    tuple(map(int, typer.__version__.split(".")[:2])) < WRITTEN_WITH,
    reason="this typer lays a help out in another way",
)
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_is_the_recorded_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", None)
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 500)
    shown = CliRunner().invoke(
        app, [*COMMANDS[name], "--help"], prog_name="ma-agiqa", color=False, env={"NO_COLOR": "1"}
    )
    assert shown.exit_code == 0, shown.output
    lines = (re.sub(r"\s+", " ", re.sub(r"[─-╿]", " ", line)) for line in shown.stdout.splitlines())
    text = "\n".join(line.strip() for line in lines if line.strip()) + "\n"
    file = SNAPSHOTS / f"{name}.txt"
    if UPDATE:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), "MA_AGIQA_UPDATE_SNAPSHOTS=1 writes it anew"


def test_no_snapshot_is_left_of_a_command_that_is_gone() -> None:
    assert sorted(file.stem for file in SNAPSHOTS.iterdir()) == sorted(COMMANDS)
