"""Every example of docs/integrations.md that says so runs as it stands there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from conftest import REPOSITORY
from support import command_line

PAGE = (REPOSITORY / "docs/integrations.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in fences if name == language]


def example(of: str) -> str:
    (code,) = (block for block in blocks("python") if of in block)
    return code


def execute(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "integrations.md", "exec"), names)
    return names


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a reader: good pictures in two folders, a bad one apart."""
    picture = Image.open(REPOSITORY / "examples/pictures/lake_0-clean.jpg").resize((96, 96))
    for name in ("assets/a.png", "renders/a.png", "renders/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture.save(tmp_path / name)
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    (tmp_path / "renders/b.png").write_bytes((tmp_path / "noise.png").read_bytes()[:500])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_examples_are_known_here() -> None:
    assert len(blocks("python")) == 4
    assert len(blocks("yaml")) == 2


def test_the_metric(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchmetrics", reason="needs the extra `metrics`")
    names = execute(example("AIImageQuality"))
    assert names["quality"].count == 6
    assert capsys.readouterr().out.startswith("tensor(")


def test_the_reward() -> None:
    names = execute(example("Reward"))
    images, reward = names["images"], names["reward"]
    assert reward.normalise
    torch.testing.assert_close(
        names["loss"], -(reward.network(images).score / 5).mean(), atol=2e-3, rtol=0
    )
    assert images.grad.abs().sum() > 0


def test_the_best_of_n(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """diffusers is a stand-in: what is called of it is what its pipelines take and return."""

    def pipeline(
        prompt: str, *, generator: torch.Generator, num_inference_steps: int
    ) -> SimpleNamespace:
        assert (prompt, num_inference_steps) == ("a red fox", 30)
        pixels = torch.rand(48, 48, 3, generator=generator) * 255
        return SimpleNamespace(images=[Image.fromarray(pixels.byte().numpy())])

    loader = SimpleNamespace(from_pretrained=lambda name: pipeline)
    monkeypatch.setitem(sys.modules, "diffusers", SimpleNamespace(DiffusionPipeline=loader))
    names = execute(example("best_of"))
    best = names["best"]
    assert len(best) == 2
    assert best[0].score >= best[1].score
    assert {path.name for path in desk.glob("fox-*")} == {f"fox-{one.seed}.png" for one in best}
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_datasets_keep_a_damaged_file_as_a_row(
    desk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    datasets = pytest.importorskip("datasets", reason="a package of its own")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", desk / "cache")
    names = execute(example("load_dataset"))
    rows = list(names["renders"])
    assert [Path(row["image"]["path"]).name for row in rows] == ["a.png", "b.png", "c.png"]
    assert rows[1]["score"] is None
    assert "damaged or truncated PNG" in rows[1]["error"]
    expected = names["scorer"](desk / "renders/a.png").score
    assert [row["score"] for row in rows[::2]] == pytest.approx([expected] * 2)
    assert [row["error"] for row in rows[::2]] == [None, None]
    assert names["best"].num_rows == 2
    assert "hashed properly" not in caplog.text  # the function's result can be cached


def test_both_gates_fail_for_a_poor_picture_and_pass_for_a_good_one(desk: Path) -> None:
    job, hooks = map(yaml.safe_load, blocks("yaml"))
    (check,) = (step["run"] for step in job["jobs"]["quality"]["steps"][-1:])
    (hook,) = hooks["repos"][0]["hooks"]
    assert re.search(hook["files"], "assets/a.png")
    commands = [shlex.split(check), [*shlex.split(hook["entry"]), "assets/a.png"]]
    for words in commands:
        done = command_line.run(*words[1:])
        assert (words[0], done.exit_code) == ("ma-agiqa", 0), done.stderr
    (desk / "noise.png").rename(desk / "assets/noise.png")
    commands[1].append("assets/noise.png")
    for words in commands:
        assert command_line.run(*words[1:]).exit_code == 3
