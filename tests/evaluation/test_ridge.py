"""Ridge regression: the closed form at every strength, in both forms, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.evaluation import probe as ridge
from ma_agiqa.evaluation.probe import ALPHAS, fit_ridge, solve_shifted

Floats = NDArray[np.float64]


def data(n: int, width: int, *, seed: int = 0) -> tuple[NDArray[np.float16], Floats]:
    """Correlated features as an LMM has them: variance falls with the rank of a direction."""
    generator = np.random.default_rng(seed)
    rank = min(n, width)
    directions = generator.normal(size=(n, rank)) / np.arange(1, rank + 1)
    features = (directions @ generator.normal(size=(rank, width)) + 3).astype(np.float16)
    scores = features[:, :3].astype(float) @ [1.0, -0.5, 0.2] + generator.normal(size=n)
    return features, scores


def closed_form(features: NDArray[np.float16], scores: Floats, strength: float) -> Floats:
    """Solve the normal equations of the standardised features in float64; the predictions."""
    x = features.astype(np.float64)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    left = z.T @ z / len(z) + strength * np.eye(z.shape[1])
    weights = np.linalg.solve(left, z.T @ (scores - scores.mean()) / len(z))
    return z @ weights + scores.mean()


@pytest.mark.parametrize(("n", "width"), [(200, 60), (60, 200)])
def test_every_strength_solves_the_normal_equations(n: int, width: int) -> None:
    features, scores = data(n, width)
    path = fit_ridge(features, scores)
    assert path.alphas == pytest.approx(ALPHAS)
    expected = [closed_form(features, scores, strength) for strength in ALPHAS]
    # Float64: a residual of 1e-8, at the smallest strength divided by 1e-3.
    np.testing.assert_allclose(path.predict(features), np.transpose(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("n", "width"), [(400, 150), (150, 400)])
def test_float32_moves_predictions_as_little_as_the_module_says(n: int, width: int) -> None:
    features, scores = data(n, width)
    single = fit_ridge(features, scores, dtype=np.float32)
    exact = fit_ridge(features, scores, dtype=np.float64).predict(features)
    error = np.abs(single.predict(features) - exact).max(axis=0) / scores.std()
    assert single.weights.dtype == np.float32
    assert error[0] < 1e-2
    assert error[ALPHAS.index(1.0)] < 1e-5


def test_both_forms_agree_and_the_smaller_matrix_is_taken() -> None:
    features, scores = data(90, 70)
    primal, dual = (fit_ridge(features, scores, form=form) for form in ("primal", "dual"))
    # Both have a residual of 1e-8, at the smallest strength divided by 1e-3.
    np.testing.assert_allclose(primal.weights, dual.weights, rtol=0, atol=1e-5)
    assert fit_ridge(features, scores).form == "primal"
    assert fit_ridge(features[:50], scores[:50]).form == "dual"


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_blocks_and_tiles_change_nothing(form: ridge.Form, monkeypatch: pytest.MonkeyPatch) -> None:
    features, scores = data(50, 45)
    whole = fit_ridge(features, scores, form=form, alphas=[1.0]).predict(features)
    monkeypatch.setattr(ridge, "ROWS", 7)
    monkeypatch.setattr(ridge.blocks, "__kwdefaults__", {"rows": 7})
    parts = fit_ridge(features, scores, form=form, alphas=[1.0]).predict(features)
    # Float64 sums in another order.
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-10)


def test_a_feature_that_does_not_vary_is_left_out() -> None:
    features, scores = data(40, 6)
    constant = np.concatenate([features, np.full((40, 1), 7, np.float16)], axis=1)
    path = fit_ridge(constant, scores)
    assert np.array_equal(path.weights[-1], np.zeros(len(ALPHAS)))
    # Float64 sums in another order, at the smallest strength divided by 1e-3.
    np.testing.assert_allclose(
        path.predict(constant), fit_ridge(features, scores).predict(features), atol=1e-8
    )


def test_scores_that_do_not_vary_give_their_mean() -> None:
    features, _ = data(20, 5)
    assert np.array_equal(
        fit_ridge(features, np.full(20, 2.5)).predict(features), np.full((20, len(ALPHAS)), 2.5)
    )


def test_scale_and_offset_of_a_feature_do_not_matter() -> None:
    features, scores = data(80, 10)
    x = features.astype(np.float32)
    moved = x * np.float32(1000) - np.float32(5)
    # `moved` itself is rounded to float32: 6e-8 of values up to ten deviations from zero.
    np.testing.assert_allclose(
        fit_ridge(moved, scores).predict(moved), fit_ridge(x, scores).predict(x), atol=2e-5
    )


def test_shifts_that_cannot_be_solved_in_time_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    spectrum = np.logspace(0, -8, 100)
    right = np.ones(100)
    shifts = np.array([1e-9, 1.0])
    monkeypatch.setattr(ridge, "MAX_STEPS", 12)
    solution, steps = solve_shifted(np.diag(spectrum), right, shifts)
    assert steps == 12
    # Only the large shift is left, solved to the stated residual.
    np.testing.assert_allclose(solution, (right / (spectrum + 1.0))[:, None], rtol=1e-6)


def test_one_direction_is_solved_in_one_step() -> None:
    solution, steps = solve_shifted(
        np.diag([4.0, 1.0, 1.0]), np.array([2.0, 0, 0]), np.array([1.0])
    )
    assert steps == 1
    np.testing.assert_allclose(solution[:, 0], [0.4, 0, 0], atol=1e-12)  # 2 / (4 + 1)


def test_values_that_are_not_finite_are_counted() -> None:
    features, scores = data(20, 5)
    features[3, 1] = features[9, 0] = np.nan
    scores[4] = np.inf
    with pytest.raises(DataError, match="features of 2 and scores of 1 of 20 images"):
        fit_ridge(features, scores)


@pytest.mark.parametrize("alphas", [[], [0.0], [-1.0, 1.0], [float("nan")]])
def test_strengths_must_be_positive(alphas: list[float]) -> None:
    with pytest.raises(UsageError, match="positive"):
        fit_ridge(*data(20, 5), alphas=alphas)


def test_shapes_that_do_not_fit_are_named() -> None:
    features, scores = data(20, 5)
    with pytest.raises(DataError, match=r"\(20, 5\) and scores \(19,\)"):
        fit_ridge(features, scores[:19])
    with pytest.raises(DataError, match=r"takes features \(n, 5\), got \(20, 4\)"):
        fit_ridge(features, scores).predict(features[:, :4])
