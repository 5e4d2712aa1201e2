"""The shipped default model: what its card promises beyond a ranking."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ma_agiqa
from conftest import REPOSITORY
from ma_agiqa.images import read_image
from ma_agiqa.models.preprocess import to_chw, to_unit
from ma_agiqa.scorer import Scorer
from ma_agiqa.training.distortions import distort

PLACE = 8
"""Pixels of a place of the quality map."""


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return ma_agiqa.load("compact", device="cpu")


def test_an_image_scores_the_same_in_any_batch(scorer: Scorer) -> None:
    pictures = sorted((REPOSITORY / "examples/pictures").glob("*.jpg"))
    alone = [scorer(path).score for path in pictures]
    assert [row.score for row in scorer.score(pictures)] == alone


def test_the_score_does_not_depend_on_autocast_beyond_its_precision(scorer: Scorer) -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        mixed = scorer.model(image).score
    with torch.inference_mode():
        exact = scorer.model(image).score
    # bfloat16 keeps eight bits; features pass 16 blocks.
    assert abs(float(mixed - exact)) < 0.15


def test_the_score_is_differentiable_in_the_image_also_after_scoring(scorer: Scorer) -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        scorer.model(image)
    image.requires_grad_()
    scorer.model(image).score.sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


def test_flat_pictures_get_a_score_like_any_other(scorer: Scorer) -> None:
    for level in (0, 128, 255):
        score = scorer(np.full((64, 64, 3), level, np.uint8)).score
        assert score is not None
        assert -0.5 <= score <= 5  # a regression may leave the scale by a little


def test_a_distorted_patch_is_where_the_map_is_lowest(scorer: Scorer) -> None:
    """Five renderings, two kinds, ten places each: 100 cases, 128 of 512 pixels in a square."""
    side = 128 // PLACE
    rng, found = np.random.default_rng(0), 0
    for path in sorted((REPOSITORY / "examples/pictures").glob("*_0-clean.*")):
        clean = to_unit(to_chw(read_image(path)))
        for kind in ("blur", "noise"):
            bad = distort(clean, kind, 0.7, seed=0)
            for _ in range(10):
                top, left = (int(rng.integers(clean.shape[1] // PLACE - side + 1)) for _ in "yx")
                image = clean.clone()
                place = np.s_[
                    :,
                    PLACE * top : PLACE * (top + side),
                    PLACE * left : PLACE * (left + side),
                ]
                image[place] = bad[place]
                quality = scorer(image, explain=True).quality_map
                assert quality is not None
                found += lowest_square(quality, side, away_from=(top, left)) > float(
                    quality[top : top + side, left : left + side].mean()
                )
    assert found >= 90  # 95 here


def lowest_square(quality: np.ndarray, side: int, *, away_from: tuple[int, int]) -> float:
    """Return the lowest mean over squares that do not overlap the one given."""
    top, left = away_from
    return min(
        float(quality[t : t + side, x : x + side].mean())
        for t in range(quality.shape[0] - side + 1)
        for x in range(quality.shape[1] - side + 1)
        if abs(t - top) >= side or abs(x - left) >= side
    )
