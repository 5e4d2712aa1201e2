"""Visual words: descriptors of gradients, and their Fisher vector against its definition."""

from __future__ import annotations

import math

import pytest
import torch

from ma_agiqa.experts import words
from ma_agiqa.experts.words import KEPT, LEVELS, SIZE, WORDS, Components, descriptors

FIELDS = {"centre": (KEPT,), "mean": (WORDS, KEPT), "variance": (WORDS, KEPT), "share": (WORDS,)}


def plane(height: int = 64, width: int = 80, seed: int = 0) -> torch.Tensor:
    """A luma plane of smoothed noise, (1, H, W)."""
    noise = torch.randn(1, height, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 3, 1, 1) * 60 + 128


def test_the_vocabulary_is_a_mixture_at_each_size() -> None:
    for level, _ in LEVELS:
        found = words.vocabulary()[level]
        assert {name: value.shape for name, value in found.items()} == FIELDS
        assert math.isclose(found["share"].sum(), 1, abs_tol=1e-5)
        assert (found["variance"] > 0).all()


@pytest.mark.parametrize("step", [1, 2])
def test_descriptors_lie_on_a_grid_of_cells(step: int) -> None:
    rows, columns = 64 // 4 - 3, 80 // 4 - 3
    expected = -(-rows // step) * -(-columns // step)
    assert descriptors(plane(), step).shape == (1, expected, KEPT)


def test_a_descriptor_hardly_changes_with_brightness_and_contrast() -> None:
    usual, other = descriptors(plane(), 2), descriptors(0.5 * plane() + 30, 2)
    moved = descriptors(plane(seed=1), 2)
    assert (usual - other).norm() < 0.1 * (usual - moved).norm()


def test_the_fisher_vector_is_the_gradient_of_the_likelihood() -> None:
    mixture = {name: torch.from_numpy(v).double() for name, v in words.vocabulary()[1].items()}
    x = descriptors(plane(), 2)[0].double() - mixture["centre"]
    mean = mixture["mean"].clone().requires_grad_()
    deviation = mixture["variance"].sqrt().requires_grad_()
    gaussian = torch.distributions.Normal(mean, deviation).log_prob(x[:, None]).sum(2)
    (gaussian + mixture["share"].log()).logsumexp(1).mean().backward()
    root = mixture["share"].sqrt()[:, None]
    by_mean = mean.grad * deviation.detach() / root
    by_variance = deviation.grad * deviation.detach() / (math.sqrt(2) * root)
    expected = torch.cat([by_mean.flatten(), by_variance.flatten()])
    torch.testing.assert_close(words._fisher(x, mixture), expected)


def test_the_vector_has_unit_length_at_each_size_and_can_be_followed_back() -> None:
    full = plane().requires_grad_()
    half = torch.nn.functional.avg_pool2d(full, 2)
    vector = words.fisher_vectors({1: full, 2: half})
    assert vector.shape == (1, SIZE)
    torch.testing.assert_close(vector.unflatten(1, (2, -1)).norm(dim=2), torch.ones(1, 2))
    vector.sum().backward()
    assert full.grad.isfinite().all()
    assert full.grad.abs().max() > 0


def test_a_flat_plane_has_finite_numbers() -> None:
    flat = {1: torch.full((1, 64, 64), 128.0), 2: torch.full((1, 32, 32), 128.0)}
    assert words.fisher_vectors(flat).isfinite().all()


def test_components_are_coordinates_from_a_centre() -> None:
    found = Components(3)
    found.centre.fill_(1.0)
    found.directions[:3] = torch.eye(3)
    x = torch.arange(SIZE, dtype=torch.float32)[None]
    assert found(x).tolist() == [[-1.0, 0.0, 1.0]]
