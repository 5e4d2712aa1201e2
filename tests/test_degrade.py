"""Synthetic degradations and quality-preserving crops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ma_agiqa.training.augment import crops, mixture
from ma_agiqa.training.degrade import KINDS, degraded_copies


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    """A smooth picture with edges and fine texture, (1, 3, 64, 64) in [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 6, 64), torch.linspace(0, 6, 64), indexing="ij")
    base = 0.5 + 0.25 * torch.sin(x * y) + 0.1 * ((x + y).floor() % 2) + 0.05 * torch.sin(40 * x)
    return torch.stack([base, base.flip(0), base.flip(1)])[None].clamp(0, 1)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"enlarge"}))
def test_more_severity_moves_the_picture_further(kind: str, picture: torch.Tensor) -> None:
    torch.manual_seed(0)
    steps = torch.tensor([0.1, 0.4, 0.7, 1.0])
    worse = KINDS[kind](picture.expand(4, -1, -1, -1).clone(), steps)
    distance = (worse - picture).square().mean((1, 2, 3))
    assert (distance.diff() > 0).all(), distance


def test_enlarging_takes_fine_detail_away(picture: torch.Tensor) -> None:
    steps = torch.tensor([0.1, 0.4, 0.7, 1.0])
    larger = KINDS["enlarge"](picture.expand(4, -1, -1, -1), steps)
    detail = larger.diff(dim=3).diff(dim=3).abs().mean((1, 2, 3))
    assert (detail.diff() < 0).all(), detail


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_sizes_that_are_no_multiple_of_a_block_work(kind: str) -> None:
    images = torch.rand(2, 3, 45, 61)
    assert KINDS[kind](images, torch.tensor([0.2, 0.9])).shape == images.shape


def test_copies_repeat_from_their_seed_and_stay_in_range(picture: torch.Tensor) -> None:
    def copies() -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(3)
        return degraded_copies(picture.repeat(8, 1, 1, 1), rng=np.random.default_rng(3))

    (worse, severity), (again, _) = copies(), copies()
    assert torch.equal(worse, again)
    assert 0 <= worse.min() < worse.max() <= 1
    assert 0.1 <= severity.min() < severity.max() <= 1
    assert ((worse - picture).abs().amax((1, 2, 3)) > 0).all(), "every copy differs"


def test_crops_show_the_image_at_its_own_resolution() -> None:
    image = torch.randint(0, 255, (3, 40, 50), dtype=torch.uint8)
    crop = crops([image], np.array([[0.4, 0.7, 0.5]]), side=16, turn=0.0)[0]
    windows = image.unfold(1, 16, 1).unfold(2, 16, 1)
    match = (windows == (crop * 255).round().to(torch.uint8)[:, None, None]).flatten(3).all(3)
    assert match.all(0).sum() == 1


def test_an_image_smaller_than_the_crop_is_continued_by_reflection() -> None:
    image = torch.randint(0, 255, (3, 5, 70), dtype=torch.uint8)
    crop = crops([image], np.array([[0.4, 0.7, 0.5]]), side=32, turn=0.0)
    assert crop.shape == (1, 3, 32, 32)
    assert torch.isin((crop * 255).round().to(torch.uint8), image).all()


def test_mixtures_follow_the_asked_share() -> None:
    rng = np.random.default_rng(0)
    factors = [mixture(4, share=0.5, rng=rng)[0] for _ in range(400)]
    mixed = sum(f != 1.0 for f in factors) / len(factors)
    assert 0.42 < mixed < 0.58, "400 draws of a fair coin stay within three standard errors"
    assert mixture(4, share=0.0, rng=rng)[0] == 1.0
