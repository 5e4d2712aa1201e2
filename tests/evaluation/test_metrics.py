"""Metrics against the official ones, where those are sound; documented answers where not."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.evaluation import metrics
from ma_agiqa.evaluation.bootstrap import METRICS, bootstrap, bootstrap_all
from ma_agiqa.evaluation.metrics import MetricWarning

SOUND = ("ties", "monotone_nonlinear", "negative", "tiny_n8", "n600", "scale100")
OFFICIAL = {"srcc": "SRCC", "krcc": "KRCC", "plcc_fitted": "PLCC", "rmse_fitted": "RMSE"}
CORRELATIONS = ("srcc", "krcc", "plcc_raw", "plcc_fitted")


def recorded(fixtures: Path, case: str) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    arrays = np.load(fixtures / "metrics.npz")
    results = json.loads((fixtures / "metrics.json").read_text())["results"]
    return arrays[f"{case}/mos"], arrays[f"{case}/pred"], results[case]


def related(n: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Human scores on 0 to 5 and predictions that follow them with noise."""
    generator = np.random.default_rng(seed)
    mos = generator.uniform(0, 5, n)
    return mos, mos + generator.normal(0, 0.6, n)


@pytest.mark.parametrize("case", SOUND)
@pytest.mark.filterwarnings("ignore::ma_agiqa.evaluation.metrics.MetricWarning")
def test_metrics_agree_with_the_official_code(fixtures: Path, case: str) -> None:
    mos, pred, official = recorded(fixtures, case)
    for name, key in OFFICIAL.items():
        # Ranks are exact; a fit ends within 1e-6 of its optimum whatever the scipy version.
        tolerance = 1e-12 if name in ("srcc", "krcc") else 1e-6
        assert METRICS[name](mos, pred) == pytest.approx(official[key], abs=tolerance), name
    raw = metrics.plcc_raw(mos, pred)
    assert raw == pytest.approx(official["raw_pearson_without_fit"], abs=1e-12)  # no fit: exact


@pytest.mark.parametrize("case", SOUND)
def test_the_fitted_curve_is_the_official_one(fixtures: Path, case: str) -> None:
    mos, pred, _ = recorded(fixtures, case)
    fit = metrics.logistic_fit(mos, pred)
    assert fit.status == "official"
    # Curves near one optimum differ by the square root of what their errors differ by (1e-12).
    np.testing.assert_allclose(
        fit.fitted, np.load(fixtures / "metrics.npz")[f"{case}/fitted"], atol=1e-5 * np.ptp(mos)
    )
    np.testing.assert_allclose(fit(pred), fit.fitted, atol=0)  # one formula, so equal bits


def test_equal_predictions_have_no_correlation_and_say_so(fixtures: Path) -> None:
    mos, pred, official = recorded(fixtures, "x_constant_prediction")
    for name in CORRELATIONS:
        with pytest.warns(MetricWarning, match="predictions are equal"):
            assert np.isnan(METRICS[name](mos, pred)), name
    with pytest.warns(MetricWarning, match="mean human score"):
        rmse = metrics.rmse_fitted(mos, pred)
    assert rmse == pytest.approx(mos.std(), abs=1e-12)  # the definition
    assert rmse == pytest.approx(official["RMSE"], abs=1e-6)  # an optimiser's digits


def test_equal_human_scores_have_no_correlation_and_say_so() -> None:
    for name in CORRELATIONS:
        with pytest.warns(MetricWarning, match="human scores are equal"):
            assert np.isnan(METRICS[name](np.full(20, 2.5), np.arange(20))), name
    with pytest.warns(MetricWarning, match="human scores are equal"):
        # The search starts on the flat curve; what is left is rounding of 2.5.
        assert metrics.rmse_fitted(np.full(20, 2.5), np.arange(20)) < 1e-12


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("n", range(metrics.MIN_PAIRS))
def test_too_few_pairs_give_nan_and_say_so(name: str, n: int) -> None:
    with pytest.warns(MetricWarning, match=f"{n} pairs"):
        assert np.isnan(METRICS[name](np.arange(n), np.arange(n)))


@pytest.mark.parametrize("name", METRICS)
def test_nan_is_an_error_that_counts(fixtures: Path, name: str) -> None:
    mos, pred, _ = recorded(fixtures, "x_nan_prediction")
    bad = int(np.isnan(pred).sum())
    with pytest.raises(DataError, match=f"0 human scores and {bad} predictions of {len(mos)}"):
        METRICS[name](mos, pred)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("mos", "pred"),
    [([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5]), (np.ones((6, 1)), np.ones((6, 1))), (["a"], [1])],
)
def test_wrong_shapes_and_kinds_are_errors(name: str, mos: object, pred: object) -> None:
    with pytest.raises(DataError):
        METRICS[name](mos, pred)  # type: ignore[arg-type]


def test_a_falling_relation_is_told_beside_the_official_value(fixtures: Path) -> None:
    mos, pred, official = recorded(fixtures, "x_negative_steep")
    with pytest.warns(MetricWarning, match="lost its sign"):
        value = metrics.plcc_fitted(mos, pred)
    assert value == pytest.approx(official["PLCC"], abs=1e-6)  # an optimiser's digits
    assert metrics.logistic_fit(mos, pred).decreasing
    assert metrics.srcc(mos, pred) < -0.9
    assert metrics.plcc_raw(mos, pred) < -0.9


def test_a_stalled_official_fit_is_replaced_and_told(fixtures: Path) -> None:
    mos, pred, official = recorded(fixtures, "x_prediction_x1000")
    with pytest.warns(MetricWarning, match="stalls"):
        fitted = metrics.plcc_fitted(mos, pred)
    assert fitted >= metrics.plcc_raw(mos, pred) > official["PLCC"] + 0.1
    with pytest.warns(MetricWarning, match="stalls"):
        assert metrics.rmse_fitted(mos, pred) < official["RMSE"]


def test_a_fit_to_unrelated_data_is_told(fixtures: Path) -> None:
    mos, pred, _ = recorded(fixtures, "x_uncorrelated")
    with pytest.warns(MetricWarning, match="no significant relation"):
        metrics.plcc_fitted(mos, pred)


def test_falling_and_stalled_fits_are_told_without_recorded_data() -> None:
    mos, pred = related()
    with pytest.warns(MetricWarning, match="lost its sign"):
        assert metrics.plcc_fitted(mos, -pred) > 0.9
    # Half a unit wide on predictions spread over millions, the official start is a step.
    with pytest.warns(MetricWarning, match="stalls"):
        stretched = metrics.plcc_fitted(mos, 1e6 * pred)
    # The same curve in other units; the search stops within 1e-6 of its optimum.
    assert stretched == pytest.approx(metrics.plcc_fitted(mos, pred), abs=1e-6)


@pytest.mark.parametrize("case", ["x_perfect", "x_prediction_tiny_scale"])
def test_easy_extremes_pass_without_a_warning(fixtures: Path, case: str) -> None:
    mos, pred, official = recorded(fixtures, case)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MetricWarning)
        value = metrics.plcc_fitted(mos, pred)
    # Both optima lie at infinite width, where the search stops somewhere along a valley.
    assert value == pytest.approx(official["PLCC"], abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3, 1e6])
def test_the_curve_is_never_worse_than_a_line(scale: float, seed: int) -> None:
    mos, pred = related(seed=seed)
    fit = metrics.logistic_fit(mos, pred * scale - scale)
    line = 1 - stats.pearsonr(mos, pred).statistic ** 2  # its share of the variance
    curve = np.mean(np.square(mos - fit.fitted)) / mos.var()
    assert curve <= line + 2 * metrics.RELATIVE_SLACK  # the slack it stops at, and rounding


@pytest.mark.parametrize("transform", [np.exp, lambda x: x**3, lambda x: 1e6 * x + 7])
@pytest.mark.parametrize("name", ["srcc", "krcc"])
def test_ranks_do_not_change_under_monotone_maps(name: str, transform: object) -> None:
    mos, pred = related()
    metric = METRICS[name]
    assert metric(mos, transform(pred)) == metric(mos, pred)  # type: ignore[operator]
    assert metric(transform(mos), pred) == metric(mos, pred)  # type: ignore[operator]


@given(data=st.data())
def test_srcc_does_not_change_under_any_rising_map(data: st.DataObject) -> None:
    levels = st.lists(st.integers(0, 9), min_size=5, max_size=40)
    pred = np.array(data.draw(levels.filter(lambda values: len(set(values)) > 1)))
    mos = np.array(data.draw(st.permutations(range(len(pred)))), dtype=float)
    steps = st.lists(st.floats(1e-3, 1e3), min_size=10, max_size=10)
    rising = np.cumsum(data.draw(steps))  # the image of each level
    assert metrics.srcc(mos, rising[pred]) == metrics.srcc(mos, pred)
    assert metrics.srcc(rising[pred], mos) == metrics.srcc(pred, mos)


@pytest.mark.parametrize("name", ["srcc", "krcc", "plcc_raw"])
def test_reversed_predictions_reverse_the_sign(name: str) -> None:
    mos, pred = related()
    # Negation mirrors every intermediate value; only the order of summation may round.
    assert METRICS[name](mos, -pred) == pytest.approx(-METRICS[name](mos, pred), abs=1e-14)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.filterwarnings("ignore::ma_agiqa.evaluation.metrics.MetricWarning")
def test_the_order_of_images_does_not_matter(name: str) -> None:
    mos, pred = related()
    order = np.random.default_rng(1).permutation(len(mos))
    # Sums in another order round otherwise; a fit repeats that rounding some hundred times.
    tolerance = 1e-7 if "fitted" in name else 1e-14
    value = METRICS[name](mos[order], pred[order])
    assert value == pytest.approx(METRICS[name](mos, pred), abs=tolerance)


@pytest.mark.parametrize("seed", range(5))
def test_rank_and_linear_correlations_are_scipys(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mos, pred = generator.integers(0, 6, (2, 50)).astype(float)  # many ties
    assert metrics.srcc(mos, pred) == pytest.approx(stats.spearmanr(mos, pred)[0], abs=1e-12)
    assert metrics.plcc_raw(mos, pred) == pytest.approx(stats.pearsonr(mos, pred)[0], abs=1e-12)


def test_the_interval_of_many_images_matches_theory() -> None:
    generator = np.random.default_rng(3)
    mos, pred = generator.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 600).T
    interval = bootstrap(metrics.plcc_raw, mos, pred, resamples=2000)
    z, half = np.arctanh(interval.value), 1.96 / np.sqrt(597)
    assert interval.low < interval.value < interval.high
    # Fisher's interval approximates too; 0.004 still tells it from a 90 % one, 0.0046 further in.
    np.testing.assert_allclose(
        [interval.low, interval.high], np.tanh([z - half, z + half]), atol=0.004
    )


def test_intervals_repeat_with_the_seed_and_move_with_it() -> None:
    mos, pred = related()
    first = bootstrap(metrics.srcc, mos, pred, resamples=50, seed=1)
    assert bootstrap(metrics.srcc, mos, pred, resamples=50, seed=1) == first
    assert bootstrap(metrics.srcc, mos, pred, resamples=50, seed=2).low != first.low


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.filterwarnings("ignore::ma_agiqa.evaluation.metrics.MetricWarning")
def test_all_intervals_at_once_are_those_of_each_metric(scale: float) -> None:
    mos, pred = related(n=60)
    together = bootstrap_all(mos, pred * scale, resamples=40)
    assert list(together) == list(METRICS)
    for name, interval in together.items():
        alone = bootstrap(METRICS[name], mos, pred * scale, resamples=40)
        ends = (alone.value, alone.low, alone.high)
        # A warm and a cold start stop at slightly different points of one flat optimum.
        tolerance = 1e-5 if "fitted" in name else 0
        assert (interval.value, interval.low, interval.high) == pytest.approx(ends, abs=tolerance)


def test_degenerate_resamples_are_counted_and_told() -> None:
    mos, pred = np.arange(8.0), np.array([0.0] * 7 + [1.0])
    with pytest.warns(MetricWarning, match="undefined on"):
        interval = bootstrap(metrics.srcc, mos, pred, resamples=200)
    expected = (7 / 8) ** 8 * 200  # draws that miss the one differing image
    # Four deviations of a binomial count of 200 draws with that share.
    assert interval.degenerate == pytest.approx(expected, abs=4 * np.sqrt(expected * 0.66))
    assert np.isfinite([interval.low, interval.high]).all()


def test_an_undefined_metric_has_an_undefined_interval() -> None:
    with pytest.warns(MetricWarning, match="equal"):
        interval = bootstrap(metrics.srcc, np.arange(20), np.ones(20), resamples=10)
    assert np.isnan([interval.value, interval.low, interval.high]).all()
    assert interval.degenerate == 10


@pytest.mark.parametrize("wrong", [{"resamples": 0}, {"level": 1.0}, {"level": 95}])
def test_a_senseless_bootstrap_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        bootstrap(metrics.srcc, *related(), **wrong)  # type: ignore[arg-type]
