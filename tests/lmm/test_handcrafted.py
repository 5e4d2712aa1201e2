"""Hand-made statistics: the published formulas on signals whose statistics are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ma_agiqa.errors import ImageError
from ma_agiqa.lmm import handcrafted as statistics
from ma_agiqa.lmm.encoder import OFFICIAL
from ma_agiqa.lmm.handcrafted import MAX_PIXELS, QUESTION, WIDTH, HandcraftedEncoder, describe
from ma_agiqa.types import RGB

N = 200_000


def picture(height: int = 64, width: int = 80, *, seed: int = 0) -> RGB:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (height, width, 3)).astype(np.uint8)


def generalised(shape: float, *, seed: int = 0) -> np.ndarray:
    """Draw a generalised Gaussian of unit scale: sign times a gamma variate's root."""
    generator = np.random.default_rng(seed)
    size = generator.gamma(1 / shape, size=N) ** (1 / shape)
    return (size * generator.choice([-1, 1], size=N)).astype(np.float32)


@pytest.mark.parametrize("shape", [0.6, 1.0, 2.0, 4.0])
def test_the_exponent_of_a_generalised_gaussian_is_found(shape: float) -> None:
    values = generalised(shape)
    found, variance = statistics.generalised_gaussian(values)
    # The moment ratio of 200,000 draws has a relative deviation below 1 %; the exponent is
    # up to three times as sensitive.
    assert found == pytest.approx(shape, rel=0.03)
    assert variance == pytest.approx(float(np.mean(values.astype(float) ** 2)), rel=1e-5)


def test_both_sides_of_an_asymmetric_gaussian_are_found() -> None:
    shape, left, right = 1.5, 1.0, 3.0
    generator = np.random.default_rng(1)
    size = np.abs(generalised(shape, seed=2))
    # A side is drawn in proportion to its width, so that the density is continuous.
    to_right = generator.random(N) < right / (left + right)
    values = np.where(to_right, right * size, -left * size).astype(np.float32)
    found, mean, below, above = statistics.asymmetric_gaussian(values)
    assert found == pytest.approx(shape, rel=0.03)
    assert mean == pytest.approx(float(values.mean()), rel=0.03)
    assert below == pytest.approx(float(np.mean(values[values < 0] ** 2.0)), rel=1e-4)
    assert above == pytest.approx(float(np.mean(values[values > 0] ** 2.0)), rel=1e-4)


def test_mscn_subtracts_the_local_mean_and_divides_by_the_local_deviation() -> None:
    grey = statistics.luminance(picture(20, 20))
    x = np.arange(-3, 4)
    bell = np.exp(-(x**2) / (2 * (7 / 6) ** 2))
    window = np.outer(bell, bell) / bell.sum() ** 2
    patch = grey[6:13, 7:14].astype(float)
    mean = (window * patch).sum()
    deviation = np.sqrt((window * (patch - mean) ** 2).sum())
    expected = (patch[3, 3] - mean) / (deviation + 1)
    # Float32: E x² - (E x)² of values up to 255.
    assert statistics.mscn(grey)[9, 10] == pytest.approx(expected, rel=1e-4)


def test_a_ramp_has_a_slope_and_no_curvature() -> None:
    ramp = np.tile(np.arange(40, dtype=np.float32) * 2, (40, 1))
    smooth, slope, curve = statistics.gaussian_derivatives(1.0, radius=5)
    across = statistics.separable(ramp, slope, smooth)[10:-10, 10:-10]
    bend = statistics.separable(ramp, curve, smooth)[10:-10, 10:-10]
    # The window holds all but 1e-5 of a Gaussian of deviation one.
    np.testing.assert_allclose(across, 2.0, rtol=1e-4)
    np.testing.assert_allclose(bend, 0.0, atol=2e-4)


def test_histograms_of_gradient_and_laplacian_sum_to_one() -> None:
    features = np.array(statistics.gm_log(statistics.luminance(picture()))).reshape(4, 10)
    np.testing.assert_allclose(features[:2].sum(axis=1), 1, atol=1e-12)
    assert (features >= 0).all()


def test_independent_levels_have_conditional_histograms_equal_to_the_marginal() -> None:
    """The published measure of dependency is the mean conditional: equal when independent."""
    flat = np.zeros((32, 32), dtype=np.float32)
    marginal, _, given, _ = np.array(statistics.gm_log(flat)).reshape(4, 10)
    assert marginal.tolist() == [1.0] + [0.0] * 9
    # One level in ten occurs; the others have no condition and count as zero.
    assert given[0] == pytest.approx(1 / (1 + 1e-4) / 10)


def test_grey_pictures_have_no_colour_and_saturated_ones_much() -> None:
    grey = np.repeat(picture()[..., :1], 3, axis=2)
    opponents = np.array(statistics.colour(grey, statistics.luminance(grey))[4:])
    np.testing.assert_allclose(opponents, 0, atol=1e-6)
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    values = statistics.colour(red, statistics.luminance(red))
    # rg = 1, yb = 1/2, no spread: 0.3 * |(1, 1/2)|.
    assert values[-1] == pytest.approx(0.3 * np.hypot(1, 0.5), rel=1e-6)
    assert values[-3] == pytest.approx(1.0)  # saturation


def test_blur_lowers_every_measure_of_sharpness(agiqa_3k: Path) -> None:
    image = Image.open(sorted((agiqa_3k / "images").iterdir())[0]).convert("L")
    sharp = np.array(statistics.sharpness(np.asarray(image, np.float32)))
    small = image.resize((image.width // 4, image.height // 4))
    soft = np.array(statistics.sharpness(np.asarray(small.resize(image.size), np.float32)))
    assert (soft < sharp).all()


def test_statistics_do_not_depend_on_the_batch_and_every_question_gets_them() -> None:
    images = [picture(seed=0), picture(40, 33, seed=1), picture(17, 100, seed=2)]
    encoder = HandcraftedEncoder()
    together = encoder.encode(images, OFFICIAL)
    assert tuple(together.shape) == (3, 2, WIDTH)
    for number, image in enumerate(images):
        alone = encoder.encode([image], (QUESTION,))
        assert np.array_equal(alone[0, 0], together[number, 0])
        assert np.array_equal(alone[0, 0], together[number, 1])


@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_flat_picture_has_finite_statistics(level: int) -> None:
    vector = describe(np.full((32, 32, 3), level, np.uint8))
    assert vector.shape == (WIDTH,)
    assert np.isfinite(vector).all()
    assert vector[0] == pytest.approx(10.0)  # the largest exponent of the table
    # Rounding of E x² - (E x)²: 1e-7 * 255² under a root, divided by one and squared.
    assert vector[1] < 1e-2


def test_a_larger_picture_is_reduced_to_the_stated_area() -> None:
    large = picture(1500, 1000)
    factor = (MAX_PIXELS / large[..., 0].size) ** 0.5
    size = int(1000 * factor), int(1500 * factor)
    reduced = np.asarray(Image.fromarray(large).resize(size, Image.Resampling.BICUBIC))
    assert np.array_equal(describe(large), describe(reduced))


@pytest.mark.parametrize("shape", [(15, 40), (40, 15), (1, 1)])
def test_a_picture_too_small_is_an_error_with_both_sizes(shape: tuple[int, int]) -> None:
    height, width = shape
    with pytest.raises(ImageError, match=f"{width}x{height} pixels are too few.*needs 16"):
        describe(picture(*shape))
