"""Is one model better than another, or was it the images? Paired tests of the SRCC difference.

Within one split: the paired bootstrap over images (Efron & Tibshirani 1993, chapter 16; used on
two systems by Koehn 2004). Both models are measured on the same resampled images, so what makes
images hard cancels out. With several seeds a model's SRCC is the mean over them.

Over several splits of one data set: the corrected resampled t-test (Nadeau & Bengio 2003). The
training parts of random splits overlap, so their differences are not independent; the variance
is raised from 1/S to 1/S + (test images / training images), S splits.

p is two-sided: how likely a difference this far from zero is if there were none. No correction
for many comparisons is made; the table says how many there are.

Shapes: n images, K seeds, S splits, R resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t

from ma_agiqa.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """SRCC of one model less that of another; NaN where it is undefined.

    Attributes:
        low, high: the 95 % interval.
        p: two-sided.
        method: `paired bootstrap` or `corrected resampled t`.
    """

    value: float
    low: float
    high: float
    p: float
    method: str


def paired_bootstrap(
    mos: Floats, ours: Floats, theirs: Floats, *, resamples: int = 1000, seed: int = 0
) -> Difference:
    """Test the difference on one split.

    Args:
        mos: (n,).
        ours, theirs: predictions for the same images, (K, n); K may differ.

    Raises:
        DataError: shapes do not fit.
    """
    if mos.ndim != 1 or ours.shape[1:] != mos.shape or theirs.shape[1:] != mos.shape:
        raise DataError(
            f"a paired test needs the same images: {mos.shape}, {ours.shape}, {theirs.shape}"
        )
    value = mean_srcc(mos, ours) - mean_srcc(mos, theirs)
    generator = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for number in range(resamples):
        rows = generator.integers(0, len(mos), size=len(mos))
        drawn = mos[rows]
        draws[number] = mean_srcc(drawn, ours[:, rows]) - mean_srcc(drawn, theirs[:, rows])
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value) or 2 * len(draws) <= resamples:
        return Difference(value, math.nan, math.nan, math.nan, "paired bootstrap")
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    # Plus one: a finite number of draws can never show a probability of nothing.
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
    return Difference(value, low, high, p, "paired bootstrap")


def corrected_t(differences: Floats, *, train: float, test: float) -> Difference:
    """Test the mean of the differences of S splits, (S,).

    Args:
        train, test: images in the training and the test part of a split.
    """
    count = len(differences)
    value = float(differences.mean()) if count else math.nan
    if count < 2 or not math.isfinite(value) or train <= 0:
        return Difference(value, math.nan, math.nan, math.nan, "corrected resampled t")
    spread = math.sqrt((1 / count + test / train) * float(differences.var(ddof=1)))
    if spread == 0:
        p = 1.0 if value == 0 else 0.0
        return Difference(value, value, value, p, "corrected resampled t")
    reach = float(t.ppf(0.975, count - 1)) * spread
    p = 2 * float(t.sf(abs(value) / spread, count - 1))
    return Difference(value, value - reach, value + reach, p, "corrected resampled t")


def mean_srcc(mos: Floats, pred: Floats) -> float:
    """Return the mean over seeds of the SRCC of (K, n) predictions; NaN where undefined."""
    ranks = rankdata(np.vstack([mos[None], pred]), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(ranks, axis=1)
    if not norms.all():
        return math.nan
    return float(np.mean(ranks[1:] @ ranks[0] / (norms[1:] * norms[0])))
