"""Losses follow their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ma_agiqa.training.losses import (
    SLACK,
    distortion_loss,
    inside_and_outside,
    ranking_loss,
    score_loss,
)
from ma_agiqa.training.recipe import RECIPES, Recipe
from ma_agiqa.training.views import Copy, View

NOTHING = np.zeros((0, 0, 3), np.uint8)


def test_distances_and_correlation() -> None:
    predicted = torch.tensor([1.0, 2.0, 4.0, 3.0, 5.0])
    target = torch.tensor([1.0, 3.0, 3.0, 3.0, 5.0])
    sets = torch.zeros(5, dtype=torch.long)
    paper = score_loss(predicted, target, sets, recipe=RECIPES["paper"], std=2.0)
    assert paper.item() == pytest.approx(2 / 5)
    own = score_loss(predicted, target, sets, recipe=Recipe(correlation=0.5), std=2.0)
    pearson = np.corrcoef(predicted.numpy(), target.numpy())[0, 1]
    assert own.item() == pytest.approx((0.125 + 0.125) / 5 + 0.5 * (1 - pearson), abs=1e-6)


def test_correlation_counts_within_each_data_set_by_its_share() -> None:
    target = torch.arange(12.0)
    predicted = target.clone()
    predicted[6:] += 3.0  # another level of the second set is no fault of its order
    sets = torch.tensor([0] * 6 + [1] * 6)
    with_correlation = score_loss(predicted, target, sets, recipe=Recipe(correlation=1), std=1.0)
    without = score_loss(predicted, target, sets, recipe=Recipe(correlation=0), std=1.0)
    assert with_correlation.item() == pytest.approx(without.item(), abs=1e-6)
    few = torch.tensor([0] * 8 + [1] * 4)
    worse = predicted.clone()
    worse[8:] = worse[8:].flip(0)  # four images have no correlation worth a gradient
    a = score_loss(worse, target, few, recipe=Recipe(correlation=1), std=1.0)
    b = score_loss(worse, target, few, recipe=Recipe(correlation=0), std=1.0)
    pearson = np.corrcoef(worse[:8].numpy(), target[:8].numpy())[0, 1]
    assert (a - b).item() == pytest.approx((1 - pearson) * 8 / 12, abs=1e-5)


def test_ranking_compares_only_within_a_data_set() -> None:
    target = torch.tensor([2.0, 1.0, 90.0, 10.0])
    sets = torch.tensor([0, 0, 1, 1])
    right = torch.tensor([2.0, 1.0, 3.0, 2.5])
    loss = ranking_loss(right, target, sets)
    shifted = ranking_loss(right + torch.tensor([0.0, 0.0, 7.0, 7.0]), target, sets)
    assert shifted.item() == pytest.approx(loss.item())
    assert ranking_loss(right.flip(0), target, sets) > loss
    assert ranking_loss(right[:1], target[:1], sets[:1]).item() == 0.0


def test_two_images_rated_alike_are_best_predicted_alike() -> None:
    target, sets = torch.tensor([1.0, 1.0]), torch.tensor([0, 0])
    same, apart = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0])
    assert ranking_loss(same, target, sets) < ranking_loss(apart, target, sets)


def copies(mild: float, strong: float) -> tuple[Copy, Copy]:
    return Copy(NOTHING, NOTHING, mild), Copy(NOTHING, NOTHING, strong)


def test_distorted_copies_have_to_fall_by_a_margin_and_not_without_bound() -> None:
    views = [View(NOTHING, NOTHING), View(NOTHING, NOTHING, copies(0.5, 1.0))]
    maps = torch.zeros(4, 4, 4)
    enough = torch.tensor([0.0, 3.0, 2.4, 1.9])  # falls of 0.6 and 0.5; 0.5 and 0.4 are asked
    assert distortion_loss(enough, maps, views, map_weight=1.0).item() == 0.0
    alike = torch.tensor([0.0, 3.0, 3.0, 3.0])
    assert distortion_loss(alike, maps, views, map_weight=1.0).item() == pytest.approx(0.9)
    too_far = torch.tensor([0.0, 3.0, 1.0, -1.0])  # falls of 2; 0.5 + SLACK and 0.4 + SLACK allowed
    expected = 2 * 2.0 - 0.9 - 2 * SLACK
    assert distortion_loss(too_far, maps, views, map_weight=1.0).item() == pytest.approx(expected)


def test_a_distorted_square_has_to_show_in_the_map() -> None:
    views = [View(NOTHING, NOTHING, copies(0.2, 0.6), square=(0, 1, 2))]
    scores = torch.tensor([9.0, 8.8, 8.6])
    flat = torch.zeros(3, 4, 4)
    missed = distortion_loss(scores, flat, views, map_weight=0.5)
    assert missed.item() == pytest.approx(0.5 * 2 * (0.5 + 0.9))
    shown = flat.clone()
    shown[1:, 0:2, 1:3] = -1.0
    assert distortion_loss(scores, shown, views, map_weight=0.5).item() == 0.0


def test_inside_and_outside_average_a_map() -> None:
    quality = torch.arange(16.0).reshape(4, 4)
    inside, outside = inside_and_outside(quality, (1, 2, 2))
    assert inside.item() == pytest.approx(np.mean([6, 7, 10, 11]))
    assert outside.item() == pytest.approx((quality.sum().item() - 34) / 12)
