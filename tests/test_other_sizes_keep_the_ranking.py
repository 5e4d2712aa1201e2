"""The shipped model ranks pictures alike whatever size and codec they come in.

On pictures of AGIQA-3K that it was not fitted to. Before views of other sizes took part in the
fit, half the size left an SRCC of 0.55 of 0.83.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ma_agiqa
from ma_agiqa.data import datasets as registry
from ma_agiqa.data import splits
from ma_agiqa.evaluation.metrics import srcc
from ma_agiqa.scorer import Scorer


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return ma_agiqa.load("compact", device="cpu")


@pytest.fixture(scope="module")
def pictures(agiqa_3k: Path) -> list[Image.Image]:
    samples = registry.load("agiqa-3k", agiqa_3k)
    rows = splits.resolve("paper", samples, agiqa_3k).part("val")[::4]
    return [Image.open(path).convert("RGB") for path in samples.subset(rows).path]


@pytest.fixture(scope="module")
def as_stored(scorer: Scorer, pictures: list[Image.Image]) -> np.ndarray:
    return np.array([scorer(picture).score for picture in pictures])


@pytest.mark.parametrize(("share", "agreement"), [(0.75, 0.9), (0.5, 0.85)])
def test_smaller_pictures(
    scorer: Scorer,
    pictures: list[Image.Image],
    as_stored: np.ndarray,
    share: float,
    agreement: float,
) -> None:
    sizes = [(round(p.width * share), round(p.height * share)) for p in pictures]
    scores = [
        scorer(p.resize(size, Image.Resampling.LANCZOS)).score
        for p, size in zip(pictures, sizes, strict=True)
    ]
    assert srcc(as_stored, scores) > agreement
    assert abs(np.mean(scores - as_stored)) < 0.2


def test_a_light_codec(scorer: Scorer, pictures: list[Image.Image], as_stored: np.ndarray) -> None:
    scores = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=90)
        scores.append(scorer(file.getvalue()).score)
    assert srcc(as_stored, scores) > 0.95
    assert abs(np.mean(scores - as_stored)) < 0.1
