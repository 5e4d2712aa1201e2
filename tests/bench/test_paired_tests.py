"""Paired tests: they find differences that are there and none that are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from ma_agiqa.bench.report import corrected_t, mean_srcc, paired_bootstrap
from ma_agiqa.errors import DataError
from ma_agiqa.evaluation import metrics

N = 300


def predictions(noise: float, *, seed: int, runs: int = 1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return mos() + generator.normal(scale=noise, size=(runs, N))


def mos() -> np.ndarray:
    return np.random.default_rng(0).normal(size=N)


def test_the_mean_over_seeds_is_that_of_the_metric() -> None:
    pred = np.round(predictions(1.0, seed=1, runs=3), 1)  # with ties
    expected = np.mean([metrics.srcc(mos(), run) for run in pred])
    assert mean_srcc(mos(), pred) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(mean_srcc(mos(), np.ones((1, N))))


def test_a_clear_difference_is_found_with_its_sign() -> None:
    better, worse = predictions(0.3, seed=1, runs=2), predictions(1.0, seed=2)
    found = paired_bootstrap(mos(), better, worse, resamples=500)
    assert found.value == mean_srcc(mos(), better) - mean_srcc(mos(), worse)
    assert 0 < found.low < found.value < found.high
    assert found.p == pytest.approx(2 / 501)  # no draw of 500 beyond zero
    turned = paired_bootstrap(mos(), worse, better, resamples=500)
    expected = (-found.value, -found.high, -found.low)
    assert (turned.value, turned.low, turned.high) == pytest.approx(expected, rel=1e-12)


def test_equal_models_differ_in_nothing() -> None:
    pred = predictions(1.0, seed=1)
    found = paired_bootstrap(mos(), pred, pred, resamples=200)
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_equally_good_models_are_seldom_told_apart() -> None:
    values = [
        paired_bootstrap(
            mos(), predictions(1, seed=2 * k + 10), predictions(1, seed=2 * k + 11), resamples=100
        ).p
        for k in range(40)
    ]
    # Forty true nulls at 5 %: two expected; seven or more has a probability below 1 %.
    assert sum(p < 0.05 for p in values) < 7
    assert np.mean(values) > 0.3


def test_pairing_is_sharper_than_two_intervals_side_by_side() -> None:
    shared = predictions(0.8, seed=3)
    better = shared + 0.1 * mos()  # what makes an image hard is common to both
    found = paired_bootstrap(mos(), better, shared, resamples=500)
    assert found.p < 0.05
    width = found.high - found.low
    alone = paired_bootstrap(mos(), better, -shared, resamples=500)
    assert width < 0.2 * (alone.high - alone.low)


def test_an_undefined_correlation_gives_nan() -> None:
    found = paired_bootstrap(mos(), np.ones((1, N)), predictions(1, seed=1), resamples=100)
    assert math.isnan(found.value)
    assert math.isnan(found.p)


def test_other_images_are_refused() -> None:
    with pytest.raises(DataError, match="the same images"):
        paired_bootstrap(mos(), predictions(1, seed=1)[:, :-1], predictions(1, seed=2))


def test_without_shared_training_images_the_t_test_is_the_plain_one() -> None:
    differences = np.array([0.02, 0.01, 0.03, -0.01, 0.02])
    found = corrected_t(differences, train=1e12, test=1)
    plain = ttest_1samp(differences, 0)
    assert found.p == pytest.approx(plain.pvalue, rel=1e-9)
    low, high = plain.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)


def test_the_correction_widens_by_the_share_of_test_images() -> None:
    differences = np.array([0.02, 0.01, 0.03, -0.01, 0.02])
    plain = corrected_t(differences, train=1e12, test=1)
    found = corrected_t(differences, train=700, test=200)
    factor = math.sqrt((1 / 5 + 200 / 700) / (1 / 5))
    assert found.high - found.value == pytest.approx(factor * (plain.high - plain.value))
    assert found.p > plain.p


def test_one_split_has_no_spread() -> None:
    found = corrected_t(np.array([0.02]), train=700, test=200)
    assert found.value == 0.02
    assert math.isnan(found.p)


@pytest.mark.parametrize(("differences", "p"), [([0.0, 0.0], 1.0), ([0.1, 0.1], 0.0)])
def test_differences_without_spread_are_certain(differences: list[float], p: float) -> None:
    assert corrected_t(np.array(differences), train=7, test=2).p == p
