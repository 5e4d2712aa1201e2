"""What training minimises. Pure functions of predictions and targets of shape (B,)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.training.recipe import Recipe


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


def ranking_loss(better: Tensor, worse: Tensor, *, spread: float) -> Tensor:
    """Logistic loss of `better` scoring above `worse`, in units of the scores' spread."""
    return F.softplus((worse - better) / (0.25 * spread)).mean()
