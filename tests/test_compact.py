"""The shipped compact model: the same score in any batch, gradients, windows, any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ma_agiqa
from ma_agiqa.errors import ImageError
from ma_agiqa.experts.compact import CompactExpert, cut


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return ma_agiqa.load("compact", device="cpu").model


def test_an_image_scores_the_same_in_any_batch(model: torch.nn.Module) -> None:
    images = torch.rand(4, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([model(image[None]).score for image in images])
    assert torch.equal(model(images).score, alone)


def test_the_score_is_differentiable_in_the_image_also_after_scoring(
    model: torch.nn.Module,
) -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        model(image)
    image.requires_grad_()
    model(image).score.sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


def test_the_score_does_not_depend_on_autocast(model: torch.nn.Module) -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(image).score
    assert torch.equal(mixed, model(image).score)


@pytest.mark.parametrize("size", [(32, 32), (33, 400), (300, 70), (512, 512)])
def test_windows_reach_every_edge_and_average_to_the_score(
    model: torch.nn.Module, size: tuple[int, int]
) -> None:
    picture = torch.linspace(0, 1, size[1]) * torch.linspace(0.3, 1, size[0])[:, None]
    images = picture.expand(1, 3, *size)
    windows = cut(images)
    torch.testing.assert_close(windows[0, 0, 0, :, 0, 0], images[0, :, 0, 0])
    torch.testing.assert_close(windows[0, -1, -1, :, -1, -1], images[0, :, -1, -1])
    output = model(images)
    quality_map, weight_map = output.local()
    assert quality_map.shape == windows.shape[:3]
    # Float32 means of at most 49 numbers below 5.
    assert float((quality_map * weight_map).sum()) == pytest.approx(float(output.score), abs=1e-4)
    assert float(weight_map.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 31, 64)])
def test_other_shapes_are_refused_with_what_was_found(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=str(shape[-2])):
        CompactExpert(supports=1)(torch.rand(*shape))


def test_flat_pictures_get_a_score_like_any_other() -> None:
    scorer = ma_agiqa.load("compact", device="cpu")
    for level in (0, 128, 255):
        score = scorer(np.full((64, 64, 3), level, np.uint8)).score
        assert score is not None
        assert -0.25 <= score <= 5  # a regression may leave the scale by a little
