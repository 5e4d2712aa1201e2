"""`compact`, exported once: the exporter takes half a minute."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import ma_agiqa
from conftest import REPOSITORY
from ma_agiqa.scorer import Scorer

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

for _module in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(_module, reason="needs the extra 'onnx'")


def guide() -> list[list[str]]:
    """Return the words of every command of docs/browser.md that is ours."""
    text = (REPOSITORY / "docs/browser.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\.venv/bin/ma-agiqa (.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.fixture(scope="session")
def original() -> Scorer:
    return ma_agiqa.load("compact", device="cpu")


@pytest.fixture(scope="session")
def program(original: Scorer) -> ONNXProgram:
    from ma_agiqa.export.graph import to_program

    return to_program(original.model.to(memory_format=torch.contiguous_format))


@pytest.fixture(scope="module")
def quick_export(program: ONNXProgram) -> Iterator[None]:
    """Have every export of a file of tests, which are all of `compact`, take what was exported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ma_agiqa.export.folder.to_program", lambda network: program)
        yield


@pytest.fixture(scope="module")
def exported(quick_export: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.command_line import run

    folder = tmp_path_factory.mktemp("exported") / "compact"
    done = run("export", "--out", folder)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{folder}\n"
    return folder
