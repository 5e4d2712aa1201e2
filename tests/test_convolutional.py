"""The small visual expert: exact pooling, any size, gradients, batch invariance."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ma_agiqa.errors import ImageError
from ma_agiqa.experts.convolutional import STRIDE, ConvolutionalExpert, two_views


@pytest.fixture(scope="module")
def expert() -> ConvolutionalExpert:
    torch.manual_seed(0)
    return ConvolutionalExpert(widths=(4, 8, 8, 12), depths=(1, 1, 1)).eval()


def test_score_is_the_weighted_mean_of_the_map(expert: ConvolutionalExpert) -> None:
    output = expert(torch.rand(3, 3, 64, 96))
    # Float32 sums over 24 places: rounding stays far below 1e-5 on a scale of 5.
    torch.testing.assert_close(
        output.score, (output.quality_map * output.weight_map).sum((1, 2)), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(output.weight_map.sum((1, 2)), torch.ones(3), rtol=0, atol=1e-5)


def test_local_scores_are_on_the_scale_asked_for() -> None:
    torch.manual_seed(0)
    small = ConvolutionalExpert(widths=(4, 8, 8, 12), depths=(1, 1, 1), low=0.0, high=5.0).eval()
    large = ConvolutionalExpert(
        widths=(4, 8, 8, 12), depths=(1, 1, 1), low=100.0, high=200.0
    ).eval()
    large.load_state_dict(small.state_dict())
    images = torch.rand(2, 3, 48, 48)
    # The same weights on a scale twenty times as wide; float32 around 150.
    expected = 100 + small(images).quality_map * 20
    torch.testing.assert_close(large(images).quality_map, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (64, 48), (100, 31)])
def test_any_size_gives_one_place_per_stride(
    expert: ConvolutionalExpert, size: tuple[int, int]
) -> None:
    rows, columns = (-(-side // STRIDE) for side in size)
    assert expert(torch.rand(1, 3, *size)).quality_map.shape == (1, rows, columns)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 15, 64)])
def test_other_shapes_are_refused_with_what_was_found(
    expert: ConvolutionalExpert, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ImageError, match=str(shape[-2])):
        expert(torch.rand(*shape))


def test_an_image_scores_the_same_in_any_batch(expert: ConvolutionalExpert) -> None:
    images = torch.rand(5, 3, 64, 64)
    alone = torch.cat([expert(image[None]).score for image in images])
    # The contract is 1e-4; equal kernels on other batch sizes differ by rounding only.
    torch.testing.assert_close(expert(images).score, alone, rtol=0, atol=1e-5)


def test_the_score_is_differentiable_in_the_image(expert: ConvolutionalExpert) -> None:
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    expert(images).score.sum().backward()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
    # Flat areas too: the square root in the local contrast must not give NaN there.
    flat = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    expert(flat).score.sum().backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_every_parameter_earns_a_gradient() -> None:
    model = ConvolutionalExpert(widths=(4, 8, 8, 12), depths=(1, 1, 2)).train()
    model(torch.rand(4, 3, 64, 64)).score.square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_folding_the_normalisation_keeps_every_score() -> None:
    torch.manual_seed(0)
    model = ConvolutionalExpert(widths=(4, 8, 8, 12), depths=(1, 1, 2)).train()
    images = torch.rand(4, 3, 64, 64)
    for _ in range(3):  # running statistics that are not the initial ones
        model(images)
    expected = model.eval()(images)
    folded = model.fold()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    # Reordered float32 products over a few hundred terms.
    torch.testing.assert_close(folded(images).score, expected.score, rtol=0, atol=1e-5)
    torch.testing.assert_close(folded(images).quality_map, expected.quality_map, rtol=0, atol=1e-4)


def test_default_network_keeps_its_budget_of_three_million_parameters() -> None:
    assert sum(p.numel() for p in ConvolutionalExpert().parameters()) <= 3_000_000


def test_local_normalisation_matches_a_plain_box_filter() -> None:
    images = torch.rand(2, 3, 40, 56)
    padded = F.pad(images, (3, 3, 3, 3), mode="reflect")
    mean, square = F.avg_pool2d(padded, 7, 1), F.avg_pool2d(padded**2, 7, 1)
    contrast = (square - mean**2).clamp_min(0).add(1e-8).sqrt()
    expected = (images - mean) / (contrast + 0.02) * 0.7
    # Differences of nearly equal squares lose about four digits of float32.
    torch.testing.assert_close(two_views(images)[:, 3:], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("wrong", [{"widths": (4, 8)}, {"depths": (1, 0, 1)}, {"low": 5.0}])
def test_impossible_networks_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        ConvolutionalExpert(**wrong)
