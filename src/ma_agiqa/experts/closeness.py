"""How near a picture comes to those that people rated best: one distance, one straight line.

The idea of NIQE (Mittal et al., IEEE SPL 2013) with the best-rated training pictures in place of
pristine photographs: their statistics have a mean and a covariance, and a picture is the worse
the farther it lies from them, whoever made it. On known generators it tells less than likeness to
rated pictures (`kernel.py`); on others it tells more (docs/LOG.md).

What this file does not do: find its numbers (`training/closed_form.py`).

Shapes: B pictures, D statistics of each, P of them that take part here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ma_agiqa.experts.kernel import limit
from ma_agiqa.experts.statistics import GROUPS, WIDTH

TOLD_BY = ("moments-1-4", "moments-2-4", "colour")
"""Groups of statistics that take part: the strength of fine detail, and colours."""

SIZE = sum(GROUPS[name] for name in TOLD_BY)


class Closeness(nn.Module):
    """Map statistics (B, D) to scores (B,); every number is a buffer, none is trained by steps."""

    mean: Tensor
    scale: Tensor
    centre: Tensor
    whitening: Tensor
    line: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, shape in {
            "mean": (SIZE,),
            "scale": (SIZE,),
            "centre": (SIZE,),
            "whitening": (SIZE, SIZE),
            "line": (2,),
        }.items():
            self.register_buffer(name, torch.zeros(shape))
        self.scale.fill_(1.0)

    def forward(self, statistics_BD: Tensor) -> Tensor:
        """Return scores (B,): a constant, and a slope times the logarithm of the distance."""
        return self.line[0] + self.line[1] * self.log_distance(statistics_BD)

    def log_distance(self, statistics_BD: Tensor) -> Tensor:
        """Return the logarithm of the Mahalanobis distance per root of P, (B,)."""
        apart = limit(taking_part(statistics_BD), self.mean, self.scale) - self.centre
        return 0.5 * (apart @ self.whitening).square().mean(1).clamp_min(1e-6).log()


def taking_part(statistics_BD: Tensor) -> Tensor:
    """Return the statistics in `TOLD_BY`, (B, P); what follows the pictures' own is left out."""
    groups = dict(zip(GROUPS, statistics_BD[:, :WIDTH].split([*GROUPS.values()], 1), strict=True))
    return torch.cat([groups[name] for name in TOLD_BY], 1)
