"""The interval of a score, by split conformal prediction.

Source: Papadopoulos, Proedrou, Vovk and Gammerman, Inductive Confidence Machines for Regression
(ECML 2002), with absolute residuals. Of n images that the network was not trained on, the half
width is the ceil((n + 1) c)-th smallest |human score - score|, c the coverage. The human score of
another image, drawn like these, lies within the half width of its score with a probability of at
least c: on average over images and over draws of the n, not for each kind of image.

What it does not do: widen for images that are drawn otherwise, such as those of a new generator, or
for a network that was selected on the same n images, whose residuals are a little too small.

Shapes: n images.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ma_agiqa.config import ScoreInterval
from ma_agiqa.types import COVERAGE


def score_interval(
    mos: NDArray[np.float64], pred: NDArray[np.float64], *, coverage: float = COVERAGE
) -> ScoreInterval | None:
    """Return the interval that these images give; None where they are too few for any.

    Args:
        mos: human scores on the model's scale, shape (n,).
        pred: the model's scores of the same images, shape (n,).
        coverage: share of further images to be covered, above 0 and below 1.

    Raises:
        ValueError: the shapes differ, or a number is not finite.
    """
    residuals = _residuals(mos, pred)
    count = len(residuals)
    # As a fraction of decimals: in floats 100 * 0.55 is above 55.
    rank = math.ceil((count + 1) * Fraction(str(coverage)))
    if rank > count:
        return None
    half_width = float(np.sort(residuals)[rank - 1])
    return ScoreInterval(half_width=half_width, coverage=coverage, images=count)


def covered(
    mos: NDArray[np.float64], pred: NDArray[np.float64], interval: ScoreInterval
) -> NDArray[np.bool_]:
    """Return whether each human score lies in the interval of its score, (n,)."""
    return _residuals(mos, pred) <= interval.half_width


def _residuals(mos: NDArray[np.float64], pred: NDArray[np.float64]) -> NDArray[np.float64]:
    if mos.shape != pred.shape or mos.ndim != 1:
        raise ValueError(f"expected (n,) and (n,), got {mos.shape} and {pred.shape}")
    residuals: NDArray[np.float64] = np.abs(mos - pred)
    if not np.isfinite(residuals).all():
        raise ValueError(f"{np.sum(~np.isfinite(residuals))} of {len(residuals)} are not finite")
    return residuals
