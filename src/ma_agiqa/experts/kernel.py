"""Kernel regression: values from the likeness to pictures whose values are known.

A vector of statistics is standardised, limited, weighted by group and turned into R
coordinates; each value is a constant plus a sum over M support pictures of a dual weight times
a Matérn-3/2 kernel of the distance. Far from every support the kernel vanishes and a value
returns to its constant: what is like nothing seen is called average, not bad.

Source: Gaussian-process regression, Rasmussen and Williams 2006, chapters 2 and 4.2.
What this file does not do: find its numbers (`training/closed_form.py`).

Shapes: B vectors, D statistics, R coordinates, M supports, K values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LIMIT = 5.0
"""Standard deviations at which a statistic stops counting for more."""


class KernelRegression(nn.Module):
    """Map vectors (B, D) to values (B, K); every number is a buffer, none is trained by steps.

    Args:
        statistics: D.
        rank: R.
        supports: M.
        values: K.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    centre: Tensor
    projection: Tensor
    support: Tensor
    dual: Tensor
    constant: Tensor

    def __init__(self, *, statistics: int, rank: int, supports: int, values: int = 1) -> None:
        super().__init__()
        if min(statistics, rank, supports, values) < 1:
            raise ValueError(
                f"expected positive sizes: {statistics=} {rank=} {supports=} {values=}"
            )
        for name, shape in {
            "mean": (statistics,),
            "scale": (statistics,),
            "weight": (statistics,),
            "centre": (statistics,),
            "projection": (statistics, rank),
            "support": (supports, rank),
            "dual": (supports, values),
            "constant": (values,),
        }.items():
            self.register_buffer(name, torch.zeros(shape))
        self.scale.fill_(1.0)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Return values (B, K)."""
        similar = matern(squared_distances(self.coordinates(x_BD), self.support))
        return self.constant + similar @ self.dual

    def coordinates(self, x_BD: Tensor) -> Tensor:
        """Return standardised, limited, weighted and projected vectors (B, R)."""
        limited = limit(x_BD, self.mean, self.scale)
        return (limited * self.weight - self.centre) @ self.projection


def limit(x_BD: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Standardise and cut at `LIMIT`."""
    return ((x_BD - mean) / scale).clamp(-LIMIT, LIMIT)


def squared_distances(a_BR: Tensor, b_MR: Tensor) -> Tensor:
    """Squared Euclidean distances, (B, M)."""
    squares = a_BR.square().sum(1)[:, None] + b_MR.square().sum(1)
    return (squares - 2 * a_BR @ b_MR.T).clamp_min(0.0)


def matern(squared: Tensor) -> Tensor:
    """Matérn kernel of smoothness 3/2 and unit length, of squared distances."""
    root = (3 * squared + 1e-8).sqrt()
    return (1 + root) * torch.exp(-root)
