"""Confidence intervals: how far a metric moves with other images of the same kind.

The percentile bootstrap: draw n images with replacement, compute the metric, repeat; the
interval holds the middle 95 % of the values. Images are drawn one by one, so images of one
prompt count as independent, and the interval says nothing about other generators, other
prompts or other training seeds.

A resample on which the metric is undefined (all drawn predictions equal) is counted as
degenerate and left out. Where half of them or more are degenerate the interval is NaN.

Shapes: n images, R resamples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ma_agiqa.errors import UsageError
from ma_agiqa.evaluation import metrics

Metric = Callable[[NDArray[np.float64], NDArray[np.float64]], float]

RESAMPLES = 1000
LEVEL = 0.95
METRICS: dict[str, Metric] = {
    "srcc": metrics.srcc,
    "plcc_raw": metrics.plcc_raw,
    "plcc_fitted": metrics.plcc_fitted,
    "krcc": metrics.krcc,
    "rmse_fitted": metrics.rmse_fitted,
}
"""The five metrics of a report, in its order."""


@dataclass(frozen=True)
class Interval:
    """A metric on all images and the range it takes on resamples of them.

    Attributes:
        value: the metric on the images as they are.
        low, high: ends of the interval at `level`; NaN when undefined.
        resamples, degenerate: how many were drawn, and on how many of them the metric
            was undefined.
    """

    value: float
    low: float
    high: float
    level: float
    resamples: int
    degenerate: int


def bootstrap(
    metric: Metric,
    mos: ArrayLike,
    pred: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return `metric(mos, pred)` with its interval.

    Args:
        metric: any function of two float64 arrays of shape (n,); NaN means undefined, an
            exception ends the bootstrap. Only its value on all images may warn.

    Raises:
        DataError: shapes differ or values are not finite.
        UsageError: `resamples` below 1 or `level` outside (0, 1).
    """
    _check(resamples, level)
    mos, pred = metrics.as_pair(mos, pred)
    value = metric(mos, pred)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics.MetricWarning)
        draws = [metric(mos[i], pred[i]) for i in _resamples(len(mos), resamples, seed)]
    return _interval(value, draws, level=level)


def bootstrap_all(
    mos: ArrayLike,
    pred: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Return the interval of each of `METRICS`, as `bootstrap` gives it, in less time.

    The two fitted metrics share one fit per resample. It is a full least-squares fit of that
    resample which starts at the curve of all images, so where a resample has several local
    optima (few images, hardly any relation) it may end in another one than a cold start.
    """
    _check(resamples, level)
    mos, pred = metrics.as_pair(mos, pred)
    plain = {name: METRICS[name] for name in ("srcc", "plcc_raw", "krcc")}
    values = {name: metric(mos, pred) for name, metric in METRICS.items()}
    draws: dict[str, list[float]] = {name: [] for name in METRICS}
    whole = metrics.logistic_fit(mos, pred) if len(mos) >= metrics.MIN_PAIRS else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics.MetricWarning)
        for i in _resamples(len(mos), resamples, seed):
            for name, metric in plain.items():
                draws[name].append(metric(mos[i], pred[i]))
            fit = None if whole is None else metrics.logistic_fit(mos[i], pred[i], near=whole)
            draws["plcc_fitted"].append(np.nan if fit is None else metrics.plcc_of(fit, mos[i]))
            draws["rmse_fitted"].append(np.nan if fit is None else metrics.rmse_of(fit, mos[i]))
    return {name: _interval(values[name], draws[name], level=level) for name in METRICS}


def _check(resamples: int, level: float) -> None:
    if resamples < 1:
        raise UsageError(f"resamples must be at least 1, got {resamples}")
    if not 0 < level < 1:
        raise UsageError(f"level must lie between 0 and 1, got {level}")


def _resamples(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield R arrays of n indices drawn with replacement; equal for equal arguments."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.integers(0, n, size=n) if n else np.empty(0, dtype=np.int64)


def _interval(value: float, draws: Iterable[float], *, level: float) -> Interval:
    """Return the middle `level` share of the defined draws."""
    all_draws = np.asarray(list(draws), dtype=np.float64)
    defined = all_draws[np.isfinite(all_draws)]
    low = high = float("nan")
    if np.isfinite(value) and 2 * len(defined) > len(all_draws):
        low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]).tolist()
    degenerate = len(all_draws) - len(defined)
    if np.isfinite(value) and degenerate > 0:
        message = f"the metric is undefined on {degenerate} of {len(all_draws)} resamples"
        warnings.warn(message, metrics.MetricWarning, stacklevel=3)
    return Interval(value, low, high, level, len(all_draws), degenerate)
