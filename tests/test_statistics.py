"""Picture statistics: right against other implementations, finite, the same in any batch."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch

from ma_agiqa.experts.smoothing import box_mean
from ma_agiqa.experts.statistics import (
    GROUPS,
    MIN_SIDE,
    WIDTH,
    block_transform,
    picture_statistics,
    statistics_vector,
)


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return smooth pictures with some noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(*shape, generator=generator)
    ramp = torch.linspace(0, 1, shape[-1]) * torch.linspace(0.2, 1, shape[-2])[:, None]
    return (0.7 * ramp + 0.3 * noise).clamp(0, 1)


def test_every_group_has_the_length_it_says() -> None:
    groups = picture_statistics(pictures(2, 3, 64, 96))
    assert {name: values.shape for name, values in groups.items()} == {
        name: (2, size) for name, size in GROUPS.items()
    }
    assert statistics_vector(pictures(1, 3, 64, 96)).shape == (1, WIDTH)


@pytest.mark.parametrize("side", [4, 8, 32])
def test_blocks_are_transformed_as_scipy_does(side: int) -> None:
    plane = pictures(1, 64, 96)
    ours = block_transform(plane, side)[0, 1, 2]
    block = plane[0, side : 2 * side, 2 * side : 3 * side].numpy()
    # Float32 sums of at most 1024 terms; the mean of a block reaches 32.
    np.testing.assert_allclose(ours, scipy.fft.dctn(block, norm="ortho"), atol=5e-5)


def test_the_box_mean_is_scipys_uniform_filter() -> None:
    plane = pictures(1, 20, 33)
    expected = scipy.ndimage.uniform_filter(plane[0].double().numpy(), 7, mode="mirror")
    np.testing.assert_allclose(box_mean(plane[:, None])[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("size", [(MIN_SIDE, MIN_SIDE), (33, 200), (101, 67), (512, 512)])
@pytest.mark.parametrize("content", ["black", "white", "picture"])
def test_any_size_and_flat_pictures_give_finite_numbers(
    size: tuple[int, int], content: str
) -> None:
    flat = {"black": torch.zeros(1, 3, *size), "white": torch.ones(1, 3, *size)}
    images = flat.get(content, pictures(1, 3, *size))
    assert statistics_vector(images).isfinite().all()


def test_a_picture_has_the_same_statistics_in_any_batch() -> None:
    images = pictures(4, 3, 64, 80)
    alone = torch.cat([statistics_vector(image[None]) for image in images])
    # Matrix products of another shape round differently; values are of order 1 to 10.
    torch.testing.assert_close(statistics_vector(images), alone, rtol=0, atol=1e-4)


def test_a_mirrored_picture_has_the_same_magnitudes() -> None:
    images = pictures(1, 3, 64, 96)
    plain, mirrored = picture_statistics(images), picture_statistics(images.flip(3))
    for name in ("moments-1-4", "moments-4-8", "together"):
        torch.testing.assert_close(plain[name], mirrored[name], rtol=0, atol=1e-3)


def test_blur_and_noise_move_the_fine_coefficients_apart() -> None:
    image = 0.3 + 0.4 * pictures(1, 3, 128, 128)  # far from black and white, nothing is cut
    soft = torch.nn.functional.pad(image, (2, 2, 2, 2), mode="reflect")
    blurred = torch.nn.functional.avg_pool2d(soft, 5, 1)
    noisy = image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    strength = [picture_statistics(x)["spectrum"][0, -40:].mean() for x in (blurred, image, noisy)]
    assert strength[0] < strength[1] < strength[2]


def test_the_statistics_are_differentiable_in_the_picture() -> None:
    image = pictures(1, 3, 64, 64).requires_grad_()
    statistics_vector(image).sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert (image.grad != 0).float().mean() > 0.9
