"""The random-weight checkpoint is the same for everyone, and every command takes it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from conftest import REPOSITORY
from ma_agiqa.features.source import hash_files
from ma_agiqa.features.store import FeatureStore
from support.command_line import run

pytest.importorskip("sentencepiece", reason="needs the extra 'paper'")
sys.path.insert(0, str(REPOSITORY / "scripts"))

import random_lmm

SMALL = {"width": 64, "image_size": 112}


def test_one_seed_gives_one_checkpoint_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        random_lmm.write(tmp_path / name, seed=seed, **SMALL)
    for file in ("config.json", "tokenizer.model", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    weights = "model.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() != (tmp_path / "c" / weights).read_bytes()


def test_its_vectors_are_extracted_and_tell_images_and_questions_apart(
    tmp_path: Path, agiqa_3k: Path
) -> None:
    random_lmm.write(tmp_path / "owl", **SMALL)
    images = sorted((agiqa_3k / "images").iterdir())[:3]
    words = ("--lmm", tmp_path / "owl", "--dtype", "fp32", "--device", "cpu")
    done = run("extract", *images, *words, "--store", tmp_path / "store")
    assert done.exit_code == 0, done.stderr
    vectors = FeatureStore.open(tmp_path / "store").get(hash_files(images)).float()
    assert vectors.shape == (3, 2, 64)
    rows = vectors.flatten(0, 1)
    distances = torch.cdist(rows, rows) + torch.eye(6) * 1e9
    assert distances.min() > 0.01 * rows.std(), "six vectors, no two alike"


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    from ma_agiqa.errors import OutputError

    with pytest.raises(OutputError, match="already exists"):
        random_lmm.write(tmp_path, **SMALL)
