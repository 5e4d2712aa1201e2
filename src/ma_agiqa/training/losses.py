"""What training minimises: pure functions of predictions and targets.

Shapes: B images, h, w places of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.training.recipe import Recipe
from ma_agiqa.training.views import View

SLACK = 0.6
"""Standard deviations by which a distorted copy may fall more than it has to."""

MIN_CORRELATED = 5
"""Fewer images than this of one data set in a batch have no correlation worth a gradient."""


def score_loss(
    predicted: Tensor, target: Tensor, sets: Tensor, *, recipe: Recipe, std: float
) -> Tensor:
    """Return the recipe's distance, and what it says on correlation and order within data sets.

    Args:
        predicted, target: (B,), on the scale of the first data set.
        sets: which data set each image is of, (B,).
        std: standard deviation of the training scores; the unit of all but `mse`.
    """
    if recipe.loss == "mse":
        loss = F.mse_loss(predicted, target)
    else:
        loss = F.smooth_l1_loss(predicted / std, target / std)
    for one in sets.unique() if recipe.correlation else ():
        own = sets == one
        if int(own.sum()) >= MIN_CORRELATED:
            p, t = predicted[own] - predicted[own].mean(), target[own] - target[own].mean()
            pearson = F.cosine_similarity(p, t, dim=0)
            loss = loss + recipe.correlation * own.float().mean() * (1 - pearson)
    if recipe.ranking:
        loss = loss + recipe.ranking * ranking_loss(predicted / std, target / std, sets)
    return loss


def ranking_loss(predicted: Tensor, target: Tensor, sets: Tensor) -> Tensor:
    """Return the cross-entropy of which of two images of one data set is better.

    The target is soft: images whose scores are close may well be in the other order.

    Args:
        predicted, target: (B,), in standard deviations.
    """
    comparable = torch.triu(sets[:, None] == sets[None, :], diagonal=1)
    if not comparable.any():
        return predicted.sum() * 0.0
    apart = (predicted[:, None] - predicted[None, :])[comparable]
    wanted = torch.sigmoid(3.0 * (target[:, None] - target[None, :])[comparable])
    return F.binary_cross_entropy_with_logits(2.0 * apart, wanted)


def distortion_loss(
    score: Tensor, quality_map: Tensor, views: Sequence[View], *, map_weight: float
) -> Tensor:
    """Return by how much distorted copies miss the distance that they should keep.

    Each copy has to score below the next better one by a margin that grows with the severity and
    then saturates, and by no more than that and `SLACK`: nobody rated it, and without an upper end
    the score of what is like no picture would fall without bound. Where only a square is distorted
    the margin is less, and the map of the copy has to be lower in it than outside, and lower than
    the original's, again by a margin and no more than that and `SLACK`.

    Args:
        score: of the views and, after them, of their copies, view by view, in standard
            deviations.
        quality_map: of the same, (B + copies, h, w).
        views: of the batch.
    """
    losses, position = [], len(views)
    for own, view in enumerate(views):
        if not view.copies:
            continue
        mild, strong = (copy.severity for copy in view.copies)
        better, worse, worst = score[own], score[position], score[position + 1]
        if view.square is None:
            margins = min(1.0, 0.1 + 0.8 * mild), min(0.8, 0.8 * (strong - mild))
        else:
            area = view.square[2] ** 2 / quality_map[0].numel()
            margins = 0.5 * area * mild, 0.5 * area * (strong - mild)
        losses.append(
            outside_band(better - worse, margins[0]) + outside_band(worse - worst, margins[1])
        )
        if view.square is not None:
            before, _ = inside_and_outside(quality_map[own], view.square)
            for place, copy in enumerate(view.copies, start=position):
                inside, outside = inside_and_outside(quality_map[place], view.square)
                margin = 0.3 + copy.severity
                low = outside_band(before - inside, margin) + F.relu(margin + inside - outside)
                losses[-1] = losses[-1] + map_weight * low
        position += len(view.copies)
    return torch.stack(losses).mean()


def outside_band(fall: Tensor, margin: float) -> Tensor:
    """Return how far a fall lies outside of `margin` to `margin + SLACK`."""
    return F.relu(margin - fall) + F.relu(fall - margin - SLACK)


def inside_and_outside(quality_map: Tensor, square: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Return the mean of a map (h, w) in a square (top, left, side), and elsewhere."""
    top, left, side = square
    inside = quality_map[top : top + side, left : left + side]
    elsewhere = quality_map.numel() - inside.numel()
    return inside.mean(), (quality_map.sum() - inside.sum()) / max(1, elsewhere)
