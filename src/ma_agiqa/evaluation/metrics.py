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

The logistic curve of the fitted metrics has four parameters:

    mos ≈ low + (high - low) / (1 + exp(-(prediction - centre) / |width|))

The official code fits it by least squares, unbounded Levenberg-Marquardt, from
[max(mos), min(mos), mean(prediction), 0.5]. We keep that start, and its result whenever it is
sound. A start of width 0.5 whatever the unit of the predictions stalls when they are spread over
thousands, and can end on a flat curve. The test of soundness: a straight line, the limit of wide
logistic curves, must not fit better. Where it does, the fit starts again from several points on
standardised predictions, so a fitted curve is never worse than the line (`status` "restarted").
The search is bounded, so nothing hangs. The direction is not constrained: a falling curve fits
reversed predictions well; `Fit.decreasing` says so, and the metrics warn.

Shapes: n images.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit
from scipy.stats import kendalltau, rankdata

from ma_agiqa.errors import DataError

MIN_PAIRS = 5
SIGNIFICANT_Z = 1.96  # two-sided 5 %; under no relation srcc has deviation 1 / sqrt(n - 1)

Status = Literal["official", "restarted", "constant"]

MAX_EVALUATIONS = 5_000  # a sound fit needs tens to hundreds; the official 1e8 can hang
RELATIVE_SLACK = 1e-9  # of the variance of mos: where the optimiser itself stops
START_WIDTHS = (0.1, 0.3, 1.0, 3.0)  # in standard deviations of the predictions
LINE_WIDTH = 100.0  # over ±3 deviations such a curve leaves its tangent by < 1e-4 of its rise


class MetricWarning(UserWarning):
    """A metric is undefined, or its value means less than it seems."""


def srcc(mos: ArrayLike, pred: ArrayLike) -> float:
    """Return Spearman's rank correlation, in [-1, 1]; see the module for NaN and errors.

    >>> round(srcc([1, 2, 3, 4, 5], [10, 20, 30, 50, 40]), 4)
    0.9
    """
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
    """Return Pearson's correlation without any fit, in [-1, 1]; see the module.

    >>> round(plcc_raw([1, 2, 3, 4, 5], [2, 4, 6, 8, 10]), 4)
    1.0
    """
    mos, pred = as_pair(mos, pred)
    if not _defined("plcc_raw", mos, pred):
        return float("nan")
    return _pearson(mos, pred)


def plcc_fitted(mos: ArrayLike, pred: ArrayLike) -> float:
    """Return Pearson's correlation after the logistic fit, in [0, 1]; see the module."""
    mos, pred = as_pair(mos, pred)
    if not _defined("plcc_fitted", mos, pred):
        return float("nan")
    fit = logistic_fit(mos, pred)
    _warn_about(fit, mos, pred, "plcc_fitted")
    return plcc_of(fit, mos)


def rmse_fitted(mos: ArrayLike, pred: ArrayLike) -> float:
    """Return the root mean squared error after the fit, >= 0, in units of `mos`."""
    mos, pred = as_pair(mos, pred)
    if not _enough("rmse_fitted", mos):
        return float("nan")
    fit = logistic_fit(mos, pred)
    _warn_about(fit, mos, pred, "rmse_fitted")
    return rmse_of(fit, mos)


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


@dataclass(frozen=True, eq=False)
class Fit:
    """A logistic curve through (prediction, mos) pairs.

    Attributes:
        high, low, centre, width: the official parameters b1, b2, b3, |b4|, in the units of
            mos (high, low) and of the prediction (centre, width). `high` < `low` when falling.
        fitted: the curve at each prediction, shape (n,), in units of mos.
        status: "official": the official start and result; "restarted": the official result
            was worse than a straight line, so official figures would differ; "constant":
            the predictions do not vary and the curve is the mean of mos.
    """

    high: float
    low: float
    centre: float
    width: float
    fitted: NDArray[np.float64]
    status: Status

    @property
    def decreasing(self) -> bool:
        """Whether a higher prediction means a lower fitted score."""
        return self.high < self.low

    @property
    def parameters(self) -> tuple[float, float, float, float]:
        """The parameters in the official order: b1, b2, b3, |b4|."""
        return self.high, self.low, self.centre, self.width

    def __call__(self, pred: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the curve at `pred`, any shape."""
        return logistic(np.asarray(pred, dtype=np.float64), *self.parameters)


def logistic(
    pred: NDArray[np.float64], high: float, low: float, centre: float, width: float
) -> NDArray[np.float64]:
    """Return the curve at `pred`, any shape; the sign of `width` does not matter."""
    rising: NDArray[np.float64] = expit((pred - centre) / max(abs(width), np.finfo(float).tiny))
    return low + (high - low) * rising


def logistic_fit(mos: ArrayLike, pred: ArrayLike, *, near: Fit | None = None) -> Fit:
    """Return the curve that `plcc_fitted` and `rmse_fitted` use; never warns.

    Args:
        near: start at this curve instead of the official point, for resamples of the data
            that `near` was fitted to. Least squares and test of soundness are the same.

    Raises:
        DataError: shapes differ, values are not finite, or fewer than 5 pairs.
    """
    mos, pred = as_pair(mos, pred)
    if len(mos) < MIN_PAIRS:
        raise DataError(f"a logistic fit needs at least {MIN_PAIRS} pairs, got {len(mos)}")
    if np.ptp(pred) == 0:
        mean = float(mos.mean())
        return Fit(mean, mean, float(pred[0]), 0.5, np.full_like(mos, mean), "constant")
    slack = RELATIVE_SLACK * _error(mos, mos.mean())
    limit = _error(mos, _line(mos, pred)) + slack
    if near is not None and near.status != "constant":
        found = _search(mos, pred, near.parameters)
        if found is not None and _error(mos, logistic(pred, *found)) <= limit:
            return _finished(found, pred, near.status)
    official = (float(mos.max()), float(mos.min()), float(pred.mean()), 0.5)
    found = _search(mos, pred, official)
    if found is not None and _error(mos, logistic(pred, *found)) <= limit:
        return _finished(found, pred, "official")
    return _finished(_restart(mos, pred), pred, "restarted")


def _restart(mos: NDArray[np.float64], pred: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the best curve over several starts on standardised predictions."""
    centre, spread = float(pred.mean()), float(pred.std())
    z = (pred - centre) / spread
    slope, level = np.polyfit(z, mos, 1)
    ends = (float(mos.max()), float(mos.min())) if slope >= 0 else (mos.min(), mos.max())
    starts = [(*ends, 0.0, width) for width in START_WIDTHS]
    rise = 4 * LINE_WIDTH * slope  # a logistic's steepest slope is rise / (4 width)
    almost_line = (level + rise / 2, level - rise / 2, 0.0, LINE_WIDTH)
    found = [_search(mos, z, start) for start in (*starts, almost_line)]
    curves = [curve for curve in found if curve is not None] + [almost_line]
    high, low, z_centre, width = min(curves, key=lambda c: _error(mos, logistic(z, *c)))
    return high, low, centre + spread * z_centre, spread * width


def _search(
    mos: NDArray[np.float64],
    pred: NDArray[np.float64],
    start: tuple[float, ...],
) -> tuple[float, ...] | None:
    """Run Levenberg-Marquardt; None when it does not converge to finite parameters."""
    with warnings.catch_warnings(), np.errstate(over="ignore"):
        warnings.simplefilter("ignore", OptimizeWarning)  # the covariance is not used
        try:
            found, _ = curve_fit(logistic, pred, mos, p0=start, maxfev=MAX_EVALUATIONS)
        except RuntimeError:  # scipy's word for "evaluations used up"
            return None
    return tuple(float(value) for value in found) if np.isfinite(found).all() else None


def _line(mos: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least-squares straight line at `pred`, which must vary; shape (n,)."""
    offset = pred - pred.mean()
    slope = (offset @ (mos - mos.mean())) / (offset @ offset)
    line: NDArray[np.float64] = mos.mean() + slope * offset
    return line


def _error(mos: NDArray[np.float64], fitted: NDArray[np.float64] | np.float64) -> float:
    """Return the sum of squared residuals."""
    return float(np.square(mos - fitted).sum())


def _finished(parameters: tuple[float, ...], pred: NDArray[np.float64], status: Status) -> Fit:
    high, low, centre, width = parameters
    fitted = logistic(pred, high, low, centre, width)
    return Fit(high, low, centre, abs(width), fitted, status)
