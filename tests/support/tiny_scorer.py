"""A scorer around a tiny random network, and pictures for it: what is tested is the scorer."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ma_agiqa.config import ModelConfig, Preprocess
from ma_agiqa.models.prediction import Prediction, QualityNetwork
from ma_agiqa.scorer import Scorer
from ma_agiqa.types import Scale

TOLERANCE = 1e-4
"""What the project promises; float32 sums of another order differ by about 1e-6."""


TINY_COMPACT = {"width_factor": 0.25, "content_side": 64}


class TinyNetwork(QualityNetwork):
    """A convolution whose mean is the score; it notes the size of each batch it is given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.local = nn.Conv2d(3, 1, 5, stride=4)
        self.batches: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Prediction:
        self.batches.append(tuple(images.shape))
        quality = self.local(images).squeeze(1)
        return predict(quality)


def predict(quality: Tensor) -> Prediction:
    """Return the prediction of a single expert whose places count alike."""
    weight = torch.full_like(quality, 1 / quality[0].numel())
    score = (quality * weight).sum((1, 2))
    return Prediction(
        score=score,
        contributions=score[:, None],
        bias=torch.zeros_like(score),
        gate=torch.ones_like(score)[:, None],
        contribution_map=quality * weight,
        weight_map=weight,
    )


def make_config(**changes: object) -> ModelConfig:
    config = ModelConfig(
        name="tiny",
        architecture="compact",
        network={},
        preprocess=Preprocess("native", min_side=32, max_pixels=512 * 512),
        scale=Scale(0.0, 5.0),
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def make_scorer(network: nn.Module | None = None, **options: object) -> Scorer:
    return Scorer(network or TinyNetwork(), make_config(), device="cpu", **options)  # type: ignore[arg-type]


def noise(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return pixels.astype(np.uint8)


def write_pictures(folder: Path) -> list[Path]:
    """Write twelve pictures of three sizes, interleaved."""
    sizes = itertools.cycle([(40, 48), (64, 32), (40, 48), (33, 57)])
    paths = []
    for seed, (height, width) in zip(range(12), sizes, strict=False):
        paths.append(folder / f"{seed:02d}.png")
        Image.fromarray(noise(seed, height, width)).save(paths[-1])
    return paths


def values(scorer: Scorer, sources: list[Path]) -> list[float]:
    return [float(score) for score in scorer.score(sources)]
