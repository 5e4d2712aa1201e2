"""What the tests of the command line share: a tiny model, and ways to run the app."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from typer.testing import CliRunner, Result

from ma_agiqa.cli import app
from ma_agiqa.config import ModelConfig, Preprocess, ScoreInterval, TrainedOn
from ma_agiqa.models import checkpoint
from ma_agiqa.types import Scale

MAIN = [sys.executable, "-c", "from ma_agiqa.cli import main; main()"]


def save_model(directory: Path, *, seed: int, width_factor: float = 0.25) -> Path:
    config = ModelConfig(
        name="tiny",
        architecture="compact",
        network={"width_factor": width_factor, "content_side": 64},
        preprocess=Preprocess("native", min_side=32, max_pixels=512 * 512),
        scale=Scale(0.0, 5.0),
        trained_on=TrainedOn("made-up", "quality", "paper", 2, (0.0, 2.5, 5.0)),
        interval=ScoreInterval(half_width=0.5, coverage=0.8, images=9),
    )
    torch.manual_seed(seed)
    checkpoint.save(directory, checkpoint.build(config), config, card="for a test")
    return directory


def run(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def score(*words: object, model: Path, stdin: str | None = None) -> Result:
    return run("score", "--model", model, "--device", "cpu", *words, stdin=stdin)


def rows_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]
