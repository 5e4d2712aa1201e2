"""Two small made-up data sets with pictures, vectors and foreign scores, for tests of the bench."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ma_agiqa.features.source import hash_files
from ma_agiqa.features.store import FeatureStore, Header
from ma_agiqa.lmm.encoder import OFFICIAL

IMAGES, WIDTH = 50, 8
TABLE = ("image", "score", "prompt")
ENCODER = {"encoder": "made up"}


def write(folder: Path) -> Path:
    """Write a.csv, b.csv, pictures, store/ with vectors that tell the scores, peer.csv."""
    store = FeatureStore.create(
        folder / "store", Header(encoder=ENCODER, width=WIDTH, questions=OFFICIAL)
    )
    peer = [["name", "score"]]
    for seed, name in enumerate("ab"):
        generator = np.random.default_rng(seed)
        scores = generator.uniform(0, 5, IMAGES)
        rows = []
        (folder / name).mkdir()
        for number, score in enumerate(scores):
            path = f"{name}/{number}.png"
            pixels = generator.integers(0, 256, (32, 36, 3)) * (score / 5)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / path)
            rows.append([path, repr(float(score)), f"prompt {number // 2}"])
            peer.append([path, repr(float(generator.normal(-score, 1)))])
        write_csv(folder / f"{name}.csv", [list(TABLE), *rows])
        telling = scores[:, None, None] * np.linspace(-1, 1, 2 * WIDTH).reshape(2, WIDTH)
        telling = telling + generator.normal(size=telling.shape)
        with store.writer() as writer:
            for sha, vectors in zip(
                hash_files([folder / row[0] for row in rows]), telling, strict=True
            ):
                writer.add(sha, torch.tensor(vectors))
    write_csv(folder / "peer.csv", peer)
    return folder


def write_csv(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


HEAD = """
title = "Two made-up sets"
baseline = "probe"
resamples = 100
seeds = [0, 1]
cross = true
"""
DATA = """
[[data]]
data = "{name}.csv"
root = "."
splits = ["random-0..1"]
prompt_column = "prompt"
"""
PROBE = """
[[model]]
name = "probe"
kind = "probe"
store = "store"
"""
PEER = """
[[model]]
name = "peer"
kind = "scores"
file = "peer.csv"
lower_is_better = true
"""
TRAIN = """
[[model]]
name = "trained"
kind = "train"
model = "compact"
backbone = "random"
settings = ["epochs=1", "crop=32", "batch_size=8", "distorted=2"]
network = ["width_factor=0.25", "content_side=64"]
"""


def grid(folder: Path, *parts: str, name: str = "grid.toml") -> Path:
    path = folder / name
    path.write_text("".join(parts))
    return path
