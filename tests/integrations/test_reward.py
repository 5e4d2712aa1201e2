"""The reward is the scorer's score, and its gradient says how to raise it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import nn

from conftest import REPOSITORY
from ma_agiqa.errors import ImageError
from ma_agiqa.integrations.reward import Reward
from ma_agiqa.scorer import Scorer, load

PICTURE = Image.open(REPOSITORY / "examples/pictures/lake_0-clean.jpg").convert("RGB")
SCALE = 5.0
TOLERANCE = 1e-4 * SCALE
REDUCED = 5 * TOLERANCE
"""Of pictures above a megapixel: Pillow reduces them in fixed point, and one in a thousand values
lands on the next of 256 levels."""


@pytest.fixture(scope="module")
def reward() -> Reward:
    return Reward()


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return load(device="cpu")


def unit(picture: Image.Image) -> torch.Tensor:
    """Return a picture as floats in [0, 1], (1, 3, H, W)."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("size", [(90, 61), (512, 512), (1500, 800), (700, 1600)])
def test_the_reward_is_the_score_of_the_scorer(
    size: tuple[int, int], reward: Reward, scorer: Scorer
) -> None:
    picture = PICTURE.resize(size)
    expected = scorer(picture).score
    tolerance = REDUCED if size[0] * size[1] > 1024 * 1024 else TOLERANCE
    np.testing.assert_allclose(reward(unit(picture)).item(), expected, rtol=0, atol=tolerance)


def test_what_a_generator_makes_is_scored_like_its_8_bit_file(
    reward: Reward, scorer: Scorer
) -> None:
    torch.manual_seed(0)
    images = (unit(PICTURE.resize((64, 48))) + 0.002 * torch.rand(3, 3, 48, 64)).clamp(0, 1)
    expected = [float(score) for score in scorer.score(images)]
    assert len(set(expected)) == 3
    np.testing.assert_allclose(reward(images).tolist(), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [(48, 40), (1100, 1000)])
def test_a_finite_gradient_reaches_the_pixels_and_no_weight(
    size: tuple[int, int], reward: Reward
) -> None:
    images = unit(PICTURE.resize(size)).requires_grad_()
    reward(images).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad != 0).float().mean() > 0.9
    assert all(weight.grad is None for weight in reward.parameters())


def test_gradient_ascent_raises_the_score_of_a_blurred_picture(
    reward: Reward, scorer: Scorer
) -> None:
    blurred = PICTURE.resize((96, 96)).filter(ImageFilter.GaussianBlur(2))
    images = unit(blurred).requires_grad_()
    optimiser = torch.optim.Adam([images], lr=2 / 255)
    for _ in range(8):
        optimiser.zero_grad()
        (-reward(images)).sum().backward()
        optimiser.step()
        images.data.clamp_(0, 1)
    risen = scorer(images.detach()).score
    assert risen is not None
    assert risen > float(scorer(blurred)) + 0.2


def test_it_stays_frozen_inside_a_module_that_trains(reward: Reward) -> None:
    trainer = nn.ModuleDict({"generator": nn.Conv2d(3, 3, 1), "reward": reward}).train()
    assert trainer["generator"].training
    assert not any(module.training for module in reward.modules())
    assert not any(weight.requires_grad for weight in reward.parameters())


def test_normalised_rewards_are_positions_on_the_scale(reward: Reward) -> None:
    images = unit(PICTURE.resize((64, 64)))
    normalised = Reward(normalise=True)(images)
    torch.testing.assert_close(normalised, reward(images) / SCALE)
    assert 0 < normalised.item() < 1


def test_autocast_and_half_precision_images_change_nothing(reward: Reward) -> None:
    images = unit(PICTURE.resize((64, 64)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = reward(images)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, reward(images))
    half = images.half()  # keeps 11 bits of each value, so 8-bit levels stay what they are
    assert torch.equal(reward(half), reward(images))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 64, 64), r"has shape \(3, 64, 64\)"),
        (torch.rand(1, 4, 64, 64), r"has shape \(1, 4, 64, 64\)"),
        (torch.rand(0, 3, 64, 64), r"has shape \(0, 3, 64, 64\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"type torch\.uint8"),
        (2 * torch.rand(1, 3, 64, 64) - 1, r"image\[0\]: has values from -.*undo the normal"),
        (torch.full((1, 3, 64, 64), torch.inf), r"image\[0\]: has values from inf to inf"),
        (torch.rand(1, 3, 16, 64), "64x16 pixels is too small to judge"),
    ],
)
def test_bad_input_is_refused_with_the_reason(
    images: torch.Tensor, message: str, reward: Reward
) -> None:
    with pytest.raises(ImageError, match=message):
        reward(images)


def test_the_image_that_holds_nan_is_named(reward: Reward) -> None:
    images = torch.rand(3, 3, 64, 64)
    images[1, 2, 5, 7] = torch.nan
    with pytest.raises(ImageError, match=r"image\[1\]: has values from nan to nan"):
        reward(images)
