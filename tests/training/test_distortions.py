"""Synthetic distortions: the more severe, the further from the picture; repeatable."""

from __future__ import annotations

import pytest
import torch

from ma_agiqa.training.distortions import DISTORTIONS, distort

STEPS = (0.1, 0.4, 0.7, 1.0)


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    """A smooth picture with edges and fine texture, (3, 64, 64) in [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 6, 64), torch.linspace(0, 6, 64), indexing="ij")
    base = 0.5 + 0.25 * torch.sin(x * y) + 0.1 * ((x + y).floor() % 2) + 0.05 * torch.sin(40 * x)
    return torch.stack([base, base.flip(0), base.flip(1)]).clamp(0, 1)


@pytest.mark.parametrize("kind", sorted(DISTORTIONS.keys() - {"enlarge"}))
def test_more_severity_moves_the_picture_further(kind: str, picture: torch.Tensor) -> None:
    worse = torch.stack([distort(picture, kind, severity, seed=0) for severity in STEPS])
    distance = (worse - picture).square().mean((1, 2, 3))
    assert (distance.diff() > 0).all(), distance


def test_enlarging_takes_fine_detail_away(picture: torch.Tensor) -> None:
    larger = torch.stack([distort(picture, "enlarge", severity, seed=0) for severity in STEPS])
    detail = larger.diff(dim=3).diff(dim=3).abs().mean((1, 2, 3))
    assert (detail.diff() < 0).all(), detail


@pytest.mark.parametrize("kind", sorted(DISTORTIONS))
@pytest.mark.parametrize("size", [(45, 61), (8, 200)])
def test_any_size_stays_as_it_is_and_in_range(kind: str, size: tuple[int, int]) -> None:
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    for severity in (0.2, 0.9):
        copy = distort(image, kind, severity, seed=1)
        assert copy.shape == image.shape
        assert copy.dtype == torch.float32
        assert 0 <= copy.min() < copy.max() <= 1
        assert not torch.equal(copy, image)


@pytest.mark.parametrize("kind", sorted(DISTORTIONS))
def test_a_copy_repeats_from_its_seed(kind: str, picture: torch.Tensor) -> None:
    once, again = (distort(picture, kind, 0.5, seed=7) for _ in range(2))
    assert torch.equal(once, again)
