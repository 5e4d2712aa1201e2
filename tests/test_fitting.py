"""The compact model from the command line: fitted, resumed, shared descriptions, refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import ma_agiqa
from ma_agiqa import checkpoints
from ma_agiqa.cli import app

FAST = ["--set", "copies=1", "--set", "alike=0", "--set", "steps=2", "--set", "rank=8"]


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty small pictures whose score falls with their noise."""
    folder = tmp_path_factory.mktemp("noisy")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        level = rng.uniform(0, 60)
        ramp = np.linspace(60, 190, 48)[:, None, None] * np.linspace(0.7, 1, 64)[None, :, None]
        pixels = np.clip(ramp + rng.normal(0, level, (48, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append((f"{number}.png", 5 - level / 15))
    with (folder / "scores.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "score"), *rows])
    return folder / "scores.csv"


def fit(table: Path, out: Path, *words: object) -> Result:
    data = ["--data", table, "--root", table.parent, "--split", "random-0", "--out", out]
    return run("train", *data, *FAST, *words)


def test_the_fitted_model_scores_noise_lower(table: Path, tmp_path: Path) -> None:
    result = fit(table, tmp_path / "run")
    assert result.exit_code == 0, result.output
    line = json.loads((tmp_path / "run/log.jsonl").read_text())
    assert line["srcc"] > 0.5
    scorer = ma_agiqa.load(tmp_path / "run/model")
    scores = {
        int(Path(str(s.path)).stem): s.score
        for s in scorer.score(sorted(table.parent.glob("*.png")))
    }
    with table.open() as file:
        human = {int(row["image"][:-4]): float(row["score"]) for row in csv.DictReader(file)}
    order = sorted(human)
    assert np.corrcoef([human[i] for i in order], [scores[i] for i in order])[0, 1] > 0.9


def test_a_resumed_fit_computes_nothing_twice_and_gives_the_same_weights(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ma_agiqa.training import fitting

    assert fit(table, tmp_path / "whole").exit_code == 0
    right, calls = fitting.statistics_vector, 0

    def killed_after_ten(images: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 21:
            raise KeyboardInterrupt
        return right(images)

    monkeypatch.setattr(fitting, "statistics_vector", killed_after_ten)
    assert fit(table, tmp_path / "broken").exit_code == 130
    monkeypatch.undo()
    kept = list((tmp_path / "broken/statistics").iterdir())
    assert len(kept) == 10, "two views of each of ten pictures had been described"
    kept[0].write_bytes(kept[0].read_bytes()[:100])  # a damaged one is made again
    assert fit(table, tmp_path / "broken", "--resume").exit_code == 0
    whole, resumed = (checkpoints.load(tmp_path / n / "model")[0] for n in ("whole", "broken"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_runs_share_descriptions(table: Path, tmp_path: Path) -> None:
    shared = tmp_path / "descriptions"
    assert fit(table, tmp_path / "one", "--descriptions", shared).exit_code == 0
    times = {path: path.stat().st_mtime_ns for path in shared.iterdir()}
    again = fit(table, tmp_path / "two", "--descriptions", shared)
    assert again.exit_code == 0
    assert times == {path: path.stat().st_mtime_ns for path in shared.iterdir()}
    assert not (tmp_path / "two/statistics").exists()


def test_the_map_of_windows_averages_to_the_score(table: Path, tmp_path: Path) -> None:
    assert fit(table, tmp_path / "run").exit_code == 0
    scorer = ma_agiqa.load(tmp_path / "run/model")
    pixels = np.random.default_rng(1).integers(0, 255, (300, 200, 3), dtype=np.uint8)
    score = scorer(pixels, explain=True)
    assert score.quality_map is not None
    assert score.quality_map.shape == (4, 3), "windows of 128 every 64 pixels or less"
    assert float(score.contribution_map.sum()) == pytest.approx(score.score, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--recipe", "modern"), "does not fit compact"),
        (("--model", "convolutional", "--recipe", "compact"), "does not fit convolutional"),
        (("--set", "epochs=3"), "no 'epochs'"),
        (("--network", "rank=3"), "compact takes no network arguments"),
    ],
)
def test_what_cannot_be_fitted_says_why(
    table: Path, tmp_path: Path, words: tuple[str, ...], reason: str
) -> None:
    data = ["--data", table, "--root", table.parent, "--split", "random-0"]
    result = run("train", *data, "--out", tmp_path / "run", *words)
    assert result.exit_code == 2
    assert reason in result.output


def test_a_fitted_model_is_not_tuned_in_steps(table: Path, tmp_path: Path) -> None:
    assert fit(table, tmp_path / "run").exit_code == 0
    result = fit(table, tmp_path / "tuned", "--model", tmp_path / "run/model")
    assert result.exit_code == 2
    assert "closed form" in result.output
