"""Every command and every Python line of the README runs as it stands there.

What a reader would have at hand is made here: a folder of pictures, a table, a data set. The
training commands run on 60 images of AGIQA-3K with a recipe made short, else unchanged.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import REPOSITORY
from ma_agiqa.cli import app
from support.agiqa_part import copy_part

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SHORT = ["--set", "epochs=1", "--set", "crop=64", "--set", "distorted=0"]


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of the README in one language; shell blocks name none."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in fences if name == language]


def commands() -> list[str]:
    """Return the shell commands of the README, one per element, comments removed."""
    text = "\n".join(blocks("")).replace("\\\n", " ")
    lines = (line.partition("  #")[0].strip() for line in text.splitlines())
    return [line for line in lines if "ma-agiqa " in line and not line.startswith("git clone")]


LOOKING = ("gallery", "explain", "sort")
SCORING = [line for line in commands() if " score " in line]
LOOKS = [line for line in commands() if line.split()[1] in LOOKING]
# `serve` goes on until it is stopped; serving/test_serve_command.py starts it.
(MANY,) = [line for line in commands() if " score-many " in line]
KNOWN = (*SCORING, *LOOKS, MANY)
OTHERS = [line for line in commands() if line not in KNOWN and " serve" not in line]


def run(line: str, folder: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    """Run a README command in `folder`: here, or a pipeline in a shell by this interpreter."""
    if "|" in line:
        own = f"{shlex.quote(sys.executable)} -m ma_agiqa"
        search = os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line.replace(".venv/bin/ma-agiqa", own)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": search},
            capture_output=True,
            text=True,
        )
    program, *words = shlex.split(line)
    assert program == ".venv/bin/ma-agiqa"
    before = Path.cwd()
    os.chdir(folder)
    try:
        done = CliRunner().invoke(app, [*words, *extra])
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess(line, done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the README's scoring commands name."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("desk")
    picture = Image.open(REPOSITORY / "examples/pictures/lake_0-clean.jpg").resize((96, 96))
    (folder / "my-images/deeper").mkdir(parents=True)
    (folder / "renders").mkdir()
    names = ("my-images/a.jpg", "my-images/deeper/b.png", "a.png", "fox.png", "renders/c.webp")
    for name in names:
        picture.save(folder / name)
    with zipfile.ZipFile(folder / "renders.zip", "w") as archive:
        archive.write(folder / "a.png", "a.png")
    (folder / "table.csv").write_text("image,by\na.png,me\nrenders/c.webp,you\n")
    return folder


def test_the_readme_has_the_commands_this_file_believes_it_has() -> None:
    assert len(SCORING) >= 6
    assert {line.split()[1] for line in OTHERS} == {"datasets", "train", "evaluate"}
    assert [line.split()[1] for line in LOOKS] == list(LOOKING)


@pytest.mark.parametrize("line", SCORING)
def test_scoring_commands_run(line: str, desk: Path) -> None:
    done = run(line, desk)
    # The gate may be missed by a small picture; that is what its exit status is for.
    expected = {0, 3} if "--fail-under" in line else {0}
    assert done.returncode in expected, done.stderr
    if "--output" in line:
        assert (desk / "scores.parquet").is_file()
    else:
        assert '"score"' in done.stdout


def test_the_command_for_many_pictures_runs(desk: Path) -> None:
    done = run(MANY, desk)
    assert done.returncode == 0, done.stderr
    assert (desk / "scores/scores-00000.parquet").is_file()


@pytest.mark.parametrize("line", LOOKS)
def test_commands_that_show_and_sort_run(line: str, desk: Path) -> None:
    if " sort " in line:
        run(".venv/bin/ma-agiqa score my-images/ --output scores.csv", desk)
    done = run(line, desk)
    assert done.returncode == 0, done.stderr
    made = {"gallery": "gallery.html", "explain": "why/fox.png", "sort": "scores.csv"}
    assert (desk / made[line.split()[1]]).is_file()
    if " sort " in line:
        assert "nothing was done: --yes does it" in done.stderr


def test_the_python_lines_run() -> None:
    (code,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "sum to the score" in done.stdout
    assert "no such file" in done.stdout


def test_training_commands_run(agiqa_3k: Path, tmp_path: Path) -> None:
    copy_part(agiqa_3k, tmp_path / "AGIQA-3K", every=50)
    verify, train, evaluate = OTHERS
    incomplete = run(verify, tmp_path)
    assert incomplete.returncode == 1, "60 of 2,982 images are no whole copy"
    assert "60 of 2982 images sound" in incomplete.stderr
    done = run(train, tmp_path, *SHORT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "runs/mine/model"
    done = run(evaluate, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 images" in done.stdout
    assert (tmp_path / "report.json").is_file()
    assert (tmp_path / "scatter.png").is_file()
