"""What training minimises. Pure functions of predictions and targets of shape (B,)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.training.recipe import Recipe

ANCHOR = 0.1
"""Weight of the first data set's distance beside a loss that knows only order."""


def score_loss(predicted: Tensor, target: Tensor, *, recipe: Recipe, spread: float) -> Tensor:
    """Return the recipe's distance plus `correlation` * (1 - Pearson).

    Args:
        spread: standard deviation of the training scores; the Huber loss counts in it.
    """
    if recipe.loss == "mse":
        distance = F.mse_loss(predicted, target)
    else:
        distance = F.smooth_l1_loss(predicted / spread, target / spread)
    if recipe.correlation == 0:
        return distance
    pearson = F.cosine_similarity(predicted - predicted.mean(), target - target.mean(), dim=0)
    return distance + recipe.correlation * (1 - pearson)


def order_loss(predicted: Tensor, target: Tensor, sets: Tensor, *, spread: float) -> Tensor:
    """Return the logistic loss of the order within each data set, whatever its scale.

    All pairs of the batch count that are of one set and whose targets differ; none gives 0.
    The first set (0) also anchors the scale by its Huber distance, a tenth of it.

    Args:
        sets: which data set, or mixture of two, each row is of, shape (B,).
    """
    comparable = (sets[:, None] == sets[None, :]) & (target[:, None] > target[None, :])
    apart = (predicted[None, :] - predicted[:, None]) / (0.25 * spread)
    pairs = F.softplus(apart)[comparable].sum() / comparable.sum().clamp_min(1)
    first = sets == 0
    anchor = F.smooth_l1_loss(predicted / spread, target / spread, reduction="none")
    return pairs + ANCHOR * (anchor * first).sum() / first.sum().clamp_min(1)


def ranking_loss(better: Tensor, worse: Tensor, *, spread: float) -> Tensor:
    """Logistic loss of `better` scoring above `worse`, in units of the scores' spread."""
    return F.softplus((worse - better) / (0.25 * spread)).mean()
