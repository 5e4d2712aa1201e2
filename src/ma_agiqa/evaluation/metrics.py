"""How well predictions agree with human scores: SRCC, KRCC, PLCC, RMSE.

Pure functions of two arrays, `(mos, pred)` of shape (n,), one definition each:

    srcc         Pearson correlation of ranks, ties share their mean rank
    krcc         Kendall's tau-b
    plcc_raw     Pearson correlation of mos and pred as they are
    plcc_fitted  Pearson correlation of mos and the logistic curve at pred
    rmse_fitted  root mean squared distance of mos and that curve, in units of mos

Source: MA-AGIQA (arXiv 2404.17762), official performance.py; published tables give SRCC,
KRCC, plcc_fitted and rmse_fitted, official training logs give plcc_raw.

Where a value is undefined or means less than it seems, the answer is this, and a
`MetricWarning` says so:

    fewer than 5 pairs           NaN from all: four parameters fit four points exactly
    predictions all equal        NaN correlations; rmse_fitted is the deviation of mos
    human scores all equal       NaN correlations; rmse_fitted is 0, up to rounding
    falling relation             plcc_fitted and rmse_fitted as published code gives them:
                                 plcc_fitted >= 0, because the curve falls too. It measures
                                 strength; direction is what srcc and plcc_raw show
    no significant relation      plcc_fitted as computed; a curve always finds some
    official fit stalls          the better curve's values; published code would differ

NaN or infinity in the input is an error: dropping them would change what is measured.

Shapes: n images.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, rankdata

from ma_agiqa.errors import DataError
from ma_agiqa.evaluation.logistic import Fit, fit_logistic

MIN_PAIRS = 5
SIGNIFICANT_Z = 1.96  # two-sided 5 %; under no relation srcc has deviation 1 / sqrt(n - 1)


class MetricWarning(UserWarning):
    """A metric is undefined, or its value means less than it seems."""


def srcc(mos: ArrayLike, pred: ArrayLike) -> float:
    """Return Spearman's rank correlation, in [-1, 1]; see the module for NaN and errors."""
    mos, pred = as_pair(mos, pred)
    if not _defined("srcc", mos, pred):
        return float("nan")
    return _pearson(rankdata(mos), rankdata(pred))


def krcc(mos: ArrayLike, pred: ArrayLike) -> float:
    """Return Kendall's tau-b, in [-1, 1]; see the module for NaN and errors."""
    mos, pred = as_pair(mos, pred)
    if not _defined("krcc", mos, pred):
        return float("nan")
    return float(kendalltau(mos, pred).statistic)


def plcc_raw(mos: ArrayLike, pred: ArrayLike) -> float:
    """Return Pearson's correlation without any fit, in [-1, 1]; see the module."""
    mos, pred = as_pair(mos, pred)
    if not _defined("plcc_raw", mos, pred):
        return float("nan")
    return _pearson(mos, pred)


def plcc_fitted(mos: ArrayLike, pred: ArrayLike) -> float:
    """Return Pearson's correlation after the logistic fit, in [0, 1]; see the module."""
    mos, pred = as_pair(mos, pred)
    if not _defined("plcc_fitted", mos, pred):
        return float("nan")
    fit = fit_logistic(mos, pred)
    _warn_about(fit, mos, pred, "plcc_fitted")
    return plcc_of(fit, mos)


def rmse_fitted(mos: ArrayLike, pred: ArrayLike) -> float:
    """Return the root mean squared error after the fit, >= 0, in units of `mos`."""
    mos, pred = as_pair(mos, pred)
    if not _enough("rmse_fitted", mos):
        return float("nan")
    fit = fit_logistic(mos, pred)
    _warn_about(fit, mos, pred, "rmse_fitted")
    return rmse_of(fit, mos)


def logistic_fit(mos: ArrayLike, pred: ArrayLike) -> Fit:
    """Return the curve that `plcc_fitted` and `rmse_fitted` use.

    Raises:
        DataError: shapes differ, values are not finite, or fewer than 5 pairs.
    """
    mos, pred = as_pair(mos, pred)
    if len(mos) < MIN_PAIRS:
        raise DataError(f"a logistic fit needs at least {MIN_PAIRS} pairs, got {len(mos)}")
    return fit_logistic(mos, pred)


def plcc_of(fit: Fit, mos: NDArray[np.float64]) -> float:
    """Return `plcc_fitted` of a curve already fitted; NaN where the curve is constant."""
    return _pearson(mos, fit.fitted)


def rmse_of(fit: Fit, mos: NDArray[np.float64]) -> float:
    """Return `rmse_fitted` of a curve already fitted."""
    return float(np.sqrt(np.mean(np.square(mos - fit.fitted))))


def as_pair(mos: ArrayLike, pred: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both as float64 arrays of one shape (n,).

    Raises:
        DataError: not one-dimensional, lengths differ, or values are not finite numbers.
    """
    try:
        pair = np.asarray(mos, dtype=np.float64), np.asarray(pred, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"human scores and predictions must be numbers: {error}") from error
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape:
        raise DataError(
            f"human scores {pair[0].shape} and predictions {pair[1].shape} must have one shape (n,)"
        )
    bad = [int(np.count_nonzero(~np.isfinite(values))) for values in pair]
    if any(bad):
        raise DataError(
            f"{bad[0]} human scores and {bad[1]} predictions of {len(pair[0])} are NaN or infinite",
            remedy="predict every image again or leave its record out on purpose",
        )
    return pair


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Pearson's correlation; NaN when either array does not vary."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return float(np.clip(a @ b, -1.0, 1.0))


def _warn(message: str) -> None:
    warnings.warn(message, MetricWarning, stacklevel=4)


def _enough(name: str, mos: NDArray[np.float64]) -> bool:
    if len(mos) < MIN_PAIRS:
        _warn(f"{name} is NaN: {len(mos)} pairs, at least {MIN_PAIRS} are needed")
        return False
    return True


def _defined(name: str, mos: NDArray[np.float64], pred: NDArray[np.float64]) -> bool:
    """Whether a correlation exists; warns when not."""
    if not _enough(name, mos):
        return False
    for values, what in ((mos, "human scores"), (pred, "predictions")):
        if np.ptp(values) == 0:
            _warn(f"{name} is NaN: all {len(values)} {what} are equal")
            return False
    return True


def _warn_about(fit: Fit, mos: NDArray[np.float64], pred: NDArray[np.float64], name: str) -> None:
    """Say what a fitted value does not show."""
    if np.ptp(mos) == 0:
        _warn(f"{name}: all human scores are equal, so there is nothing to predict")
        return
    if fit.status == "constant":
        _warn(f"{name}: all predictions are equal, the fitted curve is the mean human score")
        return
    if fit.status == "restarted":
        _warn(f"{name}: the official fit stalls on these predictions; published code would differ")
    rank = _pearson(rankdata(mos), rankdata(pred))
    if abs(rank) * np.sqrt(len(mos) - 1) < SIGNIFICANT_Z:
        _warn(f"{name} overstates: the ranks show no significant relation (SRCC {rank:+.2f})")
    elif fit.decreasing:
        _warn(f"{name} has lost its sign: the relation is falling (SRCC {rank:+.2f})")
