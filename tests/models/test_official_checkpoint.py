"""The published files, end to end: official checkpoint and official features to a score.

The checkpoint is full-size, in the official layout, filled by the weight rule; the features
are files as the official script writes them. Every step is a command.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ma_agiqa.cli import app
from ma_agiqa.images import read_image
from ma_agiqa.models.checkpoint import load
from ma_agiqa.models.preprocess import prepare
from support import official_network

for _module in ("timm", "cv2"):
    pytest.importorskip(_module, reason="the paper's model needs the extra `paper`")


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(3)
    paths = [tmp_path / "pictures" / f"{name}.png" for name in "ab"]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (300, 260, 3), dtype=np.uint8)).save(path)
    return paths


def test_official_checkpoint_and_features_give_scores(
    fixtures: Path, tmp_path: Path, pictures: list[Path]
) -> None:
    # The well conditioned weights: with the others, rounding alone moves a score by a tenth.
    gains = json.loads((fixtures / "ma_agiqa_head_tame.json").read_text())["gains"]
    torch.save(official_network.official_state(fixtures, gains=gains), tmp_path / "official.pt")
    semantics = official_network.semantics(len(pictures)).half()
    for path, vectors in zip(pictures, semantics, strict=True):
        for vector, suffix in zip(vectors, ("semantic_content", "coherence"), strict=True):
            torch.save(vector[None].clone(), tmp_path / f"{path.stem}_{suffix}.pt")
    model, store = tmp_path / "model", tmp_path / "store"
    run("convert", tmp_path / "official.pt", "--out", model)
    run("extract", "--import-official", tmp_path, "--store", store, *pictures)
    lines = run("score", "--model", model, "--store", store, "--format", "jsonl", *pictures)
    scores = [json.loads(line)["score"] for line in lines.splitlines()]

    network, config = load(model)
    batch = torch.stack([prepare(read_image(path), config.preprocess) for path in pictures])
    with torch.inference_mode():
        expected = network(batch, semantics.float()).score
    # One image or two in a batch: float32 sums in another order.
    assert scores == pytest.approx(expected.tolist(), rel=1e-4)
    assert abs(scores[0] - scores[1]) > 1e-3, "the two images and vectors differ"
