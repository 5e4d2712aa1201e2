"""Every command of docs/walkthrough.md runs, in its order, each on what the one before left.

The LMM is a tiny one under the published name, AGIQA-3K is sixty of its images, the network
and the training are made small; else the commands are those of the page.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import REPOSITORY
from ma_agiqa.cli import app
from support import owl_checkpoint, tiny_paper
from support.agiqa_part import copy_part

for _module in ("timm", "sentencepiece", "cv2"):
    pytest.importorskip(_module, reason="the paper's model needs the extra `paper`")

PAGE = (REPOSITORY / "docs/walkthrough.md").read_text(encoding="utf-8")
PUBLISHED = "MAGAer13/mplug-owl2-llama2-7b"
SHORT = ["--backbone", "random", "--set", "epochs=1", "--set", "batch_size=8"]


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in fences if name == language]


def commands() -> list[list[str]]:
    lines = "".join(blocks("")).splitlines()
    assert all(line.startswith("ma-agiqa ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture
def desk(agiqa_3k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a reader; the tiny LMM lies at the published name."""
    owl_checkpoint.write(tmp_path / PUBLISHED)
    (tmp_path / "my-images").mkdir()
    rows = copy_part(agiqa_3k, tmp_path / "AGIQA-3K", every=50)
    for row, name in zip(rows[2:100:49], "ab", strict=True):
        shutil.copy(agiqa_3k / "images" / row[0], tmp_path / f"my-images/{name}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_runs_and_both_ways_to_a_score_agree(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [words[0] for words in commands()]
    order = ["convert-lmm", "extract", "train", "evaluate", "score", "extract", "score"]
    assert names == order
    scores: list[list[float]] = []
    for words in commands():
        extra = [*SHORT, *tiny_paper.OPTIONS] if words[0] == "train" else []
        done = CliRunner().invoke(app, [*words, *extra])
        assert done.exit_code == 0, f"{words[0]}: {done.stderr}"
        if words[0] == "score":
            scores.append([json.loads(line)["score"] for line in done.stdout.splitlines()])
    assert json.loads((desk / "report.json").read_text())["n"] == 12
    computed, stored = scores
    assert len(stored) == 2
    # Float16 results of the LMM in another batch, on a scale of 5.
    np.testing.assert_allclose(computed, stored, rtol=0, atol=1e-3)
    (code,) = blocks("python")
    exec(compile(code, "walkthrough.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["my-images/a.jpg", "my-images/b.jpg"]
    assert [float(line.split()[1]) for line in printed] == pytest.approx(computed, abs=1e-3)


def test_options_the_page_names_exist() -> None:
    named = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert {"--part", "--questions", "--import-official", "--network", "--shard-size"} <= named
    helps = "".join(
        CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "300"}).stdout
        for name in ("extract", "train", "score")
    )
    missing = sorted(option for option in named if option not in helps)
    assert missing == []
