"""Synthetic degradations, views that deserve the same score, and crops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ma_agiqa.training.alike import SMALLEST, _resized, alike
from ma_agiqa.training.augment import crops, mixture
from ma_agiqa.training.degrade import KINDS, degraded_copy
from ma_agiqa.training.recode import recoded


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
    def copies() -> list[tuple[torch.Tensor, float]]:
        torch.manual_seed(3)
        rng = np.random.default_rng(3)
        return [degraded_copy(picture, rng=rng) for _ in range(24)]

    once = copies()
    for (worse, severity), (again, _) in zip(once, copies(), strict=True):
        assert torch.equal(worse, again)
        assert 0 <= worse.min() < worse.max() <= 1
        assert 0.1 <= severity <= 1
        assert not torch.equal(worse, picture)
    assert len({severity for _, severity in once}) == 24


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """A picture of 240 x 200 in which no two places are alike."""
    y, x = np.mgrid[0:200, 0:240]
    return Image.fromarray(np.stack([x, y, (x * y) // 200], 2).astype(np.uint8))


def test_views_are_no_larger_and_keep_shape_and_the_least_size(photograph: Image.Image) -> None:
    rng = np.random.default_rng(0)
    sizes = [alike(photograph, rng=rng).size for _ in range(200)]
    assert all(SMALLEST <= height <= 200 and width <= 240 for width, height in sizes)
    assert all(abs(width / height - 1.2) < 0.01 for width, height in sizes)
    assert len(set(sizes)) > 30
    assert (240, 200) in sizes


def test_a_small_picture_is_not_reduced() -> None:
    small = Image.new("RGB", (48, 36))
    rng = np.random.default_rng(0)
    assert {alike(small, rng=rng).size for _ in range(50)} == {(48, 36)}


def test_a_view_shows_what_the_picture_shows(photograph: Image.Image) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        colours = np.asarray(_resized(photograph, rng=rng), dtype=float)
        # Red and green say where a pixel was: neighbours stay neighbours, in order.
        assert (np.diff(colours[..., 0], axis=1) >= 0).all()
        assert (np.diff(colours[..., 1], axis=0) >= 0).all()


def test_views_repeat_from_their_seed(photograph: Image.Image) -> None:
    once, again = (alike(photograph, rng=np.random.default_rng(5)) for _ in range(2))
    assert once.tobytes() == again.tobytes()


def test_a_better_quality_stays_nearer(photograph: Image.Image) -> None:
    errors = [
        np.abs(np.asarray(recoded(photograph, "JPEG", quality=q)).astype(int) - photograph).mean()
        for q in (95, 50, 5)
    ]
    assert 0 < errors[0] < errors[1] < errors[2]


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
