"""A semantic encoder without weights: hand-crafted statistics of the picture as its vector.

It shows what an encoder that learned nothing is worth, the floor that an LMM's vectors must beat
on the same splits. It answers no question: every question gets the same vector, and by itself it
has one entry, `statistics`, of these 101 numbers:

    brisque          36: shape and deviation of normalised luminance (MSCN) and of the products
                     of neighbours, at full and half size (Mittal et al., TIP 2012)
    gm_log           40: histograms of gradient magnitude and Laplacian of Gaussian, and how
                     they depend on each other (Xue et al., TIP 2014)
    colour           15: moments of luminance and two opponent colours, saturation,
                     colourfulness (Hasler & Süsstrunk, 2003)
    sharpness        10: Laplacian and gradient strength, and how much of it a blur takes
                     (Crete et al., 2007)

Where the sources leave it open: borders are mirrored; half size is PIL's antialiased bicubic; a
flat picture, for which shapes are undefined, has the table's largest shape and no deviation. The
trained regressions of these papers are not here.

Shapes: B images, K questions, D = 101 statistics, H, W height and width of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import correlate1d
from scipy.special import gammaln
from torch import Tensor

from ma_agiqa.errors import ImageError
from ma_agiqa.lmm.encoder import Question, fingerprint_of
from ma_agiqa.types import RGB

NAME = "handcrafted"
WIDTH = 101
MAX_PIXELS = 1024 * 1024
"""Larger pictures are reduced to this area: statistics of pixels depend on their size."""

IDENTITY = {
    "family": NAME,
    "version": 1,
    "statistics": ["brisque", "gm_log", "colour", "sharpness"],
    "max_pixels": MAX_PIXELS,
}
QUESTION = Question(name="statistics", text="Statistics of the pixels; no question is asked.")

Plane = NDArray[np.float32]

MIN_SIDE = 16
"""Half of it still holds the 7-pixel window of `mscn`."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
SHAPES = np.arange(0.2, 10.001, 0.001)
"""Exponents of the generalised Gaussian that a fit can give, as in the published code."""

RATIOS = np.exp(2 * gammaln(2 / SHAPES) - gammaln(1 / SHAPES) - gammaln(3 / SHAPES))
"""E|x|² / E x² of each exponent; rising."""

NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
BINS, BIN = 10, 0.2  # of gm_log: its N_G = N_L = 10, in steps of a fifth of the local strength


class HandcraftedEncoder:
    """Turn images into vectors of statistics; see `SemanticEncoder`."""

    identity = IDENTITY
    width = WIDTH

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of `identity`."""
        return fingerprint_of(self.identity)

    def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
        """Return (B, K, D), float32; equal for every question.

        Raises:
            ImageError: an image with a side below 16 pixels.
        """
        vectors = torch.from_numpy(np.stack([describe(image) for image in images]))
        return vectors[:, None].repeat(1, len(questions), 1)


def describe(rgb: RGB) -> np.ndarray:
    """Return the statistics of one image, (D,), float32, finite.

    Raises:
        ImageError: a side below 16 pixels.
    """
    rgb = _reduced(rgb)
    if min(rgb.shape[:2]) < MIN_SIDE:
        height, width = rgb.shape[:2]
        raise ImageError(
            f"{width}x{height} pixels are too few for statistics, each side needs {MIN_SIDE}"
        )
    grey = luminance(rgb)
    features = [
        *brisque(grey),
        *gm_log(grey),
        *colour(rgb, grey),
        *sharpness(grey),
    ]
    return np.array(features, dtype=np.float32)


def _reduced(rgb: RGB) -> RGB:
    height, width = rgb.shape[:2]
    if height * width <= MAX_PIXELS:
        return rgb
    factor = (MAX_PIXELS / (height * width)) ** 0.5
    size = max(1, int(width * factor)), max(1, int(height * factor))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def luminance(rgb: RGB) -> Plane:
    """Return (H, W), 0 to 255."""
    plane: Plane = rgb.astype(np.float32) @ LUMA
    return plane


def half(grey: Plane) -> Plane:
    """Return the picture at half size, antialiased."""
    height, width = grey.shape
    small = Image.fromarray(grey).resize((width // 2, height // 2), Image.Resampling.BICUBIC)
    return np.asarray(small, dtype=np.float32)


def mscn(grey: Plane) -> Plane:
    """Return luminance less its local mean, over its local deviation plus one; (H, W)."""
    window = gaussian(7 / 6, radius=3)
    mean = separable(grey, window, window)
    variance = separable(grey * grey, window, window) - mean * mean
    normalised: Plane = (grey - mean) / (np.sqrt(np.maximum(variance, 0)) + 1)
    return normalised


def brisque(grey: Plane) -> list[float]:
    """Return 18 numbers at each of two sizes."""
    features: list[float] = []
    for plane in (grey, half(grey)):
        normalised = mscn(plane)
        features += generalised_gaussian(normalised)
        for down, right in NEIGHBOURS:
            features += asymmetric_gaussian(_products(normalised, down, right))
    return features


def generalised_gaussian(values: Plane) -> list[float]:
    """Return exponent and variance of the generalised Gaussian with these moments."""
    flat = values.ravel()
    square = float(flat @ flat) / flat.size
    return [_shape(float(np.abs(flat).mean()) ** 2, square), square]


def asymmetric_gaussian(values: Plane) -> list[float]:
    """Return exponent, mean, left and right variance of the asymmetric generalised Gaussian."""
    flat = values.ravel()
    below = np.minimum(flat, 0)
    left_count, right_count = int((flat < 0).sum()), int((flat > 0).sum())
    left_sum, square_sum = float(below @ below), float(flat @ flat)
    left = (left_sum / max(left_count, 1)) ** 0.5
    right = (max(square_sum - left_sum, 0) / max(right_count, 1)) ** 0.5
    if left + right == 0:
        return [float(SHAPES[-1]), 0.0, 0.0, 0.0]
    size = float(flat.sum() - 2 * below.sum()) / flat.size
    # The published correction of the ratio for unequal sides, written for either side zero.
    lean = (right**3 + left**3) * (right + left) / (right**2 + left**2) ** 2
    shape = _shape(size**2 * lean, square_sum / flat.size)
    one, two, three = gammaln(1 / shape), gammaln(2 / shape), gammaln(3 / shape)
    mean = (right - left) * np.exp(two - one / 2 - three / 2)
    return [shape, float(mean), float(left**2), float(right**2)]


def gm_log(grey: Plane) -> list[float]:
    """Return the marginal histograms and the mean conditional ones, 10 numbers each."""
    smooth, slope, curve = gaussian_derivatives(0.5, radius=2)
    across, down = separable(grey, slope, smooth), separable(grey, smooth, slope)
    gradient = np.sqrt(across * across + down * down)
    laplacian = separable(grey, curve, smooth) + separable(grey, smooth, curve)
    window = gaussian(1.0, radius=3)
    power = separable(gradient * gradient + laplacian * laplacian, window, window)
    scale = 1 / (BIN * (np.sqrt(np.maximum(power, 0)) + 0.2))
    levels = [np.minimum(p * scale, BINS - 1).astype(np.intp) for p in (gradient, abs(laplacian))]
    joint = np.bincount((BINS * levels[0] + levels[1]).ravel(), minlength=BINS**2)
    joint = joint.reshape(BINS, BINS) / joint.sum()
    of_gradient, of_laplacian = joint.sum(axis=1), joint.sum(axis=0)
    given_laplacian = (joint / (of_laplacian + 1e-4)).mean(axis=1)
    given_gradient = (joint / (of_gradient[:, None] + 1e-4)).mean(axis=0)
    features = [of_gradient, of_laplacian, given_laplacian, given_gradient]
    return [float(value) for value in np.concatenate(features)]


def colour(rgb: RGB, grey: Plane) -> list[float]:
    """Return moments of luminance, red-green and yellow-blue, saturation, colourfulness."""
    red, green, blue = (rgb[..., c].astype(np.float32) / np.float32(255) for c in range(3))
    red_green: Plane = red - green
    yellow_blue: Plane = (red + green) / np.float32(2) - blue
    features = _moments(grey / np.float32(255)) + _moments(red_green) + _moments(yellow_blue)
    largest = np.maximum(np.maximum(red, green), blue)
    smallest = np.minimum(np.minimum(red, green), blue)
    saturation = (largest - smallest) / np.maximum(largest, 1 / 255)
    spread = np.hypot(red_green.std(), yellow_blue.std())
    colourfulness = spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean())
    return [*features, float(saturation.mean()), float(saturation.std()), float(colourfulness)]


def sharpness(grey: Plane) -> list[float]:
    """Return five numbers at each of two sizes; strengths as logarithms, blur in 0 to 1."""
    features: list[float] = []
    for plane in (grey, half(grey)):
        across, down = np.diff(plane, axis=1)[:-1], np.diff(plane, axis=0)[:, :-1]
        gradient = np.sqrt(across * across + down * down).ravel()
        laplacian = np.diff(plane, 2, axis=1)[1:-1] + np.diff(plane, 2, axis=0)[:, 1:-1]
        rank = int(0.95 * (gradient.size - 1))
        strong = np.partition(gradient, rank)[rank]
        strengths = [laplacian.var(), gradient.mean(), gradient.std(), strong]
        features += [float(np.log1p(value)) for value in strengths]
        box = np.full(9, 1 / 9, dtype=np.float32)
        blurred = separable(plane, box, box)
        before, after = _variation(plane), _variation(blurred)
        features.append(max(before - after, 0) / before if before > 0 else 0.0)
    return features


def _variation(plane: Plane) -> float:
    """Return the sum of absolute differences of neighbours."""
    return sum(float(np.abs(np.diff(plane, axis=axis)).sum()) for axis in (0, 1))


def gaussian(sigma: float, *, radius: int) -> Plane:
    """Return a sampled Gaussian of sum one, (2 radius + 1,)."""
    return gaussian_derivatives(sigma, radius=radius)[0]


def gaussian_derivatives(sigma: float, *, radius: int) -> tuple[Plane, Plane, Plane]:
    """Return a sampled Gaussian of sum one and its first two derivatives, sums zero."""
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    bell = np.exp(-(x**2) / (2 * sigma**2))
    bell /= bell.sum()
    slope = x / sigma**2 * bell  # sign turned: `separable` correlates
    curve = (x**2 / sigma**4 - 1 / sigma**2) * bell
    curve -= curve.mean()
    return bell.astype(np.float32), slope.astype(np.float32), curve.astype(np.float32)


def separable(plane: Plane, horizontal: Plane, vertical: Plane) -> Plane:
    """Return the plane filtered along both axes, borders mirrored."""
    first = correlate1d(plane, horizontal, axis=1, mode="reflect", output=np.float32)
    second: Plane = correlate1d(first, vertical, axis=0, mode="reflect", output=np.float32)
    return second


def _products(plane: Plane, down: int, right: int) -> Plane:
    """Return the product of each pixel and its neighbour `down` and `right` of it."""
    height, width = plane.shape
    left, end = max(0, -right), width - max(0, right)
    near = plane[: height - down, left:end]
    far = plane[down:, left + right : end + right]
    return near * far


def _shape(first_squared: float, second: float) -> float:
    """Return the exponent whose E|x|² / E x² this is; the largest for a flat picture."""
    if second <= 0:
        return float(SHAPES[-1])
    return float(np.interp(first_squared / second, RATIOS, SHAPES))


def _moments(plane: Plane) -> list[float]:
    """Return mean, deviation, skewness and kurtosis; the last two 0 for a flat plane."""
    mean = float(plane.mean(dtype=np.float64))
    centred = (plane - np.float32(mean)).ravel()
    square = centred * centred
    variance = float(square.mean())
    if variance < 1e-10:
        return [mean, 0.0, 0.0, 0.0]
    skew = float(square @ centred) / centred.size / variance**1.5
    return [mean, variance**0.5, skew, float(square @ square) / centred.size / variance**2]
