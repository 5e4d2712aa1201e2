"""The commands of docs/lmms.md run, with tiny models under the published names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from conftest import REPOSITORY
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.lmm.encoder import quote_prompts, read_questions
from support import tiny_paper
from support.command_line import run

for _module in ("transformers", "timm", "cv2"):
    pytest.importorskip(_module, reason="needs the extras 'lmm' and 'paper'")

from support import tiny_lmms  # noqa: E402
from support.agiqa_part import copy_part  # noqa: E402

PAGE = (REPOSITORY / "docs/lmms.md").read_text(encoding="utf-8")
SHORT = ["--backbone", "random", "--set", "epochs=1", "--set", "batch_size=8", "--device", "cpu"]


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in fences if name == language]


@pytest.fixture
def desk(agiqa_3k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a reader, with sixty images of AGIQA-3K."""
    tiny_lmms.write("qwen3_vl", tmp_path / "Qwen/Qwen3-VL-2B-Instruct")
    copy_part(agiqa_3k, tmp_path / "AGIQA-3K", every=50)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_extract_and_train_run_as_written(desk: Path) -> None:
    install, *commands = blocks("")[0].replace("\\\n", " ").splitlines()
    assert install == ".venv/bin/pip install -e '.[lmm]'"
    extract, train = (shlex.split(line)[1:] for line in commands)
    done = run(*extract)
    assert done.exit_code == 0, done.stderr
    assert "60 extracted" in done.stderr
    assert FeatureStore.open(desk / "features/qwen3-vl-2b").header.width == 32
    done = run(*train, *SHORT, *tiny_paper.OPTIONS)
    assert done.exit_code == 0, done.stderr
    images = sorted((desk / "AGIQA-3K/images").iterdir())[:2]
    lmm = ("--lmm", "Qwen/Qwen3-VL-2B-Instruct")
    score = run("score", *images, "--model", "runs/qwen3-vl-2b/model", *lmm)
    assert score.exit_code == 0, score.stderr


def test_the_question_files_are_valid(tmp_path: Path) -> None:
    files = blocks("toml")
    assert len(files) == 2
    for text in files:
        (tmp_path / "questions.toml").write_text(text, encoding="utf-8")
        assert quote_prompts(read_questions(tmp_path / "questions.toml"))
