"""Several data sets, several scales, one score.

The network gives one score, on the scale of the first data set. Human scores of every other
set are brought onto that scale by equal mean and standard deviation; what is left, that one
set's pictures are better than another's, a learned affine map with positive slope takes up:

    A_d(y) = mean + spread * (exp(s_d) * (y - mean) / spread + t_d)        s_0 = t_0 = 0

The maps are a help of training and not part of the model. What a model directory records is
fitted afterwards, on validation images, from the model's score to the set's own scale.

Shapes: B images, n images, S data sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ma_agiqa.errors import DataError


@dataclass(frozen=True)
class LinearMap:
    """`slope * x + offset`, the slope positive."""

    slope: float
    offset: float

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x if (self.slope, self.offset) == (1.0, 0.0) else self.slope * x + self.offset


def between(low: float, high: float, to_low: float, to_high: float) -> LinearMap:
    """Return the map of one scale's ends to another's."""
    slope = (to_high - to_low) / (high - low)
    return LinearMap(slope, to_low - slope * low)


def standardised(scores: NDArray[np.float64], like: NDArray[np.float64]) -> LinearMap:
    """Return the map that gives scores the mean and standard deviation of `like`."""
    slope = float(like.std() / scores.std())
    return LinearMap(slope, float(like.mean() - slope * scores.mean()))


def fitted(predicted: NDArray[np.float64], scores: NDArray[np.float64]) -> LinearMap | None:
    """Return the least-squares map from the model's scores to a set's own.

    None where the model does not order the set at all: no positive slope fits.
    """
    spread = float(predicted.var())
    if not spread > 0:
        return None
    slope = float(np.mean((predicted - predicted.mean()) * (scores - scores.mean()))) / spread
    return LinearMap(slope, float(scores.mean() - slope * predicted.mean())) if slope > 0 else None


class ScaleMaps(nn.Module):
    """The learned maps A_d of S data sets; the first is the identity.

    Args:
        sets: how many data sets.
        mean, spread: of the first set's training scores.
    """

    def __init__(self, *, sets: int, mean: float, spread: float) -> None:
        super().__init__()
        if sets < 2 or not spread > 0:
            raise DataError(f"maps join at least two data sets with scores that vary: {sets=}")
        self.mean, self.spread = mean, spread
        self.log_slope = nn.Parameter(torch.zeros(sets - 1))
        self.offset = nn.Parameter(torch.zeros(sets - 1))

    def forward(self, score_B: Tensor, sets_B: Tensor) -> Tensor:
        """Return each score as its data set would have it, on the first set's scale, (B,)."""
        zero = self.log_slope.new_zeros(1)
        slope = torch.cat([zero, self.log_slope]).exp()[sets_B]
        offset = torch.cat([zero, self.offset])[sets_B]
        return self.mean + slope * (score_B - self.mean) + self.spread * offset
