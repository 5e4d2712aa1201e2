"""The four-parameter logistic curve that stands between predictions and their fitted PLCC.

    mos ≈ low + (high - low) / (1 + exp(-(prediction - centre) / |width|))

Source: MA-AGIQA (arXiv 2404.17762), official performance.py: least squares, unbounded
Levenberg-Marquardt from [max(mos), min(mos), mean(prediction), 0.5].

Kept from the official code: that start, and its result whenever it is sound. A start of
width 0.5 whatever the unit of the predictions stalls when they are spread over thousands,
and can end on a flat curve. The test of soundness is that a straight line, the limit of
wide logistic curves, must not fit better. Where it does, the fit starts again from several
points on standardised predictions, so a fitted curve is never worse than the line
(`status` "restarted"). The search is bounded, so nothing hangs.

Not here: constraints on the direction. A falling curve fits reversed predictions well;
`Fit.decreasing` tells, and `metrics.py` warns.

Shapes: n images.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit

Status = Literal["official", "restarted", "constant"]

MAX_EVALUATIONS = 5_000  # a sound fit needs tens to hundreds; the official 1e8 can hang
RELATIVE_SLACK = 1e-9  # of the variance of mos: where the optimiser itself stops
START_WIDTHS = (0.1, 0.3, 1.0, 3.0)  # in standard deviations of the predictions
LINE_WIDTH = 100.0  # over ±3 deviations such a curve leaves its tangent by < 1e-4 of its rise


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
    return low + (high - low) * expit((pred - centre) / max(abs(width), np.finfo(float).tiny))


def fit_logistic(
    mos: NDArray[np.float64], pred: NDArray[np.float64], *, near: Fit | None = None
) -> Fit:
    """Fit the curve to finite float64 arrays of shape (n,), n >= 4; never warns.

    Args:
        near: start at this curve instead of the official point, for resamples of the data
            that `near` was fitted to. Least squares and test of soundness are the same.
    """
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
    return mos.mean() + slope * offset


def _error(mos: NDArray[np.float64], fitted: NDArray[np.float64] | np.float64) -> float:
    """Return the sum of squared residuals."""
    return float(np.square(mos - fitted).sum())


def _finished(parameters: tuple[float, ...], pred: NDArray[np.float64], status: Status) -> Fit:
    high, low, centre, width = parameters
    fitted = logistic(pred, high, low, centre, width)
    return Fit(high, low, centre, abs(width), fitted, status)
