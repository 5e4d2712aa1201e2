"""The interval of a score: its formula, and that it holds as many human scores as it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ma_agiqa.config import ScoreInterval
from ma_agiqa.evaluation.conformal import covered, score_interval
from ma_agiqa.types import COVERAGE


def test_the_half_width_is_the_residual_of_the_rank_in_the_formula() -> None:
    pred = np.zeros(9)
    mos = np.array([0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 5.0])
    # ceil((9 + 1) * 0.8) = 8: the eighth smallest of the nine.
    assert score_interval(mos, pred) == ScoreInterval(half_width=0.8, coverage=0.8, images=9)
    # ceil((8 + 1) * 0.8) = ceil(7.2) = 8: the largest of the first eight.
    assert score_interval(mos[:8], pred[:8]) == ScoreInterval(0.8, 0.8, 8)
    # ceil((4 + 1) * 0.8) = 4, the largest of four; of three, 3.2 would need a fourth.
    assert score_interval(mos[:4], pred[:4]) == ScoreInterval(0.4, 0.8, 4)
    assert score_interval(mos[:3], pred[:3]) is None
    assert score_interval(mos[:0], pred[:0]) is None


def test_a_rank_is_computed_in_decimals() -> None:
    mos = np.arange(1.0, 100.0)
    interval = score_interval(mos, np.zeros(99), coverage=0.55)
    assert interval is not None
    assert interval.half_width == 55  # in floats, ceil(100 * 0.55) is 56


@given(st.integers(4, 300), st.integers(0, 2**32 - 1))
def test_of_distinct_residuals_the_rank_and_no_more_are_held(count: int, seed: int) -> None:
    mos = np.random.default_rng(seed).permutation(count) + 1.0
    interval = score_interval(mos, np.zeros(count))
    assert interval is not None
    held = covered(mos, np.zeros(count), interval).sum()
    assert (held - 1) / (count + 1) < COVERAGE <= held / (count + 1)


@pytest.mark.parametrize("count", [4, 10, 50])
def test_exchangeable_images_are_held_as_often_as_it_says(count: int) -> None:
    rng, draws = np.random.default_rng(count), 4000
    held = []
    for _ in range(draws):
        # Skewed, heavy-tailed residuals of both signs: the promise needs no distribution.
        residuals = rng.standard_t(2, count + 1) + rng.exponential(1, count + 1)
        interval = score_interval(residuals[:-1], np.zeros(count))
        assert interval is not None
        held.append(covered(residuals[-1:], np.zeros(1), interval)[0])
    # At least 0.8, and at most 1 / (n + 1) more; four standard errors of 4,000 draws are 0.025.
    assert COVERAGE - 0.025 < np.mean(held) < COVERAGE + 1 / (count + 1) + 0.025


def test_what_is_no_score_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 are not finite"):
        score_interval(np.array([1.0, np.nan]), np.zeros(2))
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        score_interval(np.zeros(2), np.zeros(3))
