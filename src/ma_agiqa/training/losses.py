"""What training minimises. Pure functions of predictions and targets of shape (B,)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def score_loss(predicted: Tensor, target: Tensor, *, spread: float, correlation: float) -> Tensor:
    """Huber distance in units of the scores' spread plus `correlation` * (1 - Pearson)."""
    distance = F.smooth_l1_loss(predicted / spread, target / spread)
    if correlation == 0:
        return distance
    pearson = F.cosine_similarity(predicted - predicted.mean(), target - target.mean(), dim=0)
    return distance + correlation * (1 - pearson)


def ranking_loss(better: Tensor, worse: Tensor, *, spread: float) -> Tensor:
    """Logistic loss of `better` scoring above `worse`, in units of the scores' spread."""
    return F.softplus((worse - better) / (0.25 * spread)).mean()
