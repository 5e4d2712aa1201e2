"""Every command of docs/benchmark.md runs, in its order, on sixty images of AGIQA-3K."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import REPOSITORY
from ma_agiqa.cli import app
from ma_agiqa.evaluation import metrics

PAGE = (REPOSITORY / "docs/benchmark.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in fences if name == language]


@pytest.fixture
def desk(agiqa_3k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: all images of some prompts, lists of them, and scores of a peer."""
    root = tmp_path / "AGIQA-3K"
    (root / "images").mkdir(parents=True)
    (root / "splits").mkdir()
    with (agiqa_3k / "data.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    chosen = rows[::50]
    for name, lines in (("AGIQA-3K/data.csv", [head, *chosen]), ("peer.csv", [["name", "score"]])):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows(lines)
    score = head.index("mos_quality")
    with (tmp_path / "peer.csv").open("a", newline="") as file:
        csv.writer(file).writerows([row[0], -(float(row[score]) ** 2)] for row in chosen)
    for row in chosen:
        shutil.copy(agiqa_3k / "images" / row[0], root / "images")
    for number in (1, 2):
        prompts = sorted({row[head.index("prompt")] for row in chosen})[number::5]
        names = [row[0] for row in chosen if row[head.index("prompt")] in prompts]
        (root / f"splits/ipce-{number:02d}-test.txt").write_text("\n".join(names))
    (tmp_path / "grid.toml").write_text(blocks("toml")[0])
    monkeypatch.chdir(tmp_path)
    # Twelve images hardly fix a logistic curve, and its search would take most of the time.
    monkeypatch.setattr(metrics, "MAX_EVALUATIONS", 20)
    return tmp_path


def test_every_command_runs(desk: Path) -> None:
    (grid,) = blocks("toml")
    (desk / "grid.toml").write_text(grid.replace("resamples = 1000", "resamples = 100"))
    lines = "".join(blocks("")).splitlines()
    outputs = []
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "ma-agiqa"
        few = ["--resamples", "100"] if words[0] in ("probe", "evaluate") else []
        done = CliRunner().invoke(app, [*words, *few])
        assert done.exit_code == 0, f"{line}: {done.stderr}"
        outputs.append((words[0], done.stdout))
    order = ["extract", "probe", "evaluate", "benchmark", "benchmark"]
    assert [name for name, _ in outputs] == order
    assert len(outputs[3][1].splitlines()) == 9  # three models on three splits
    assert json.loads((desk / "probe.json").read_text())["n"] == 12
    found = json.loads((desk / "bench/results.json").read_text())
    assert [cell["error"] for cell in found["cells"]] == [None] * 9
    peer = next(row for row in found["summary"]["rows"] if row["model"] == "a peer")
    assert peer["figures"]["srcc"]["median"] == pytest.approx(1.0)  # its scores are the humans'
    assert {p["method"] for p in found["summary"]["published"]} >= {"MA-AGIQA", "BRISQUE"}
    assert (desk / "bench/results.md").read_text() == outputs[4][1]


def test_options_and_kinds_the_page_names_exist() -> None:
    named = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert {"--check", "--vectors", "--lower-is-better", "--predictions"} <= named
    helps = "".join(
        CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "300"}).stdout
        for name in ("extract", "probe", "evaluate", "benchmark", "peer")
    )
    assert sorted(option for option in named if option not in helps) == []
