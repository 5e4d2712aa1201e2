"""Statistics of a picture at every scale of its texture, without any weight learned from one.

How a generator renders texture shows in how the coefficients of small cosine transforms are
distributed, how they go together, and how a locally normalised picture departs from that of
photographs; so do noise, blur, blocking and over-sharpening. All of it is averages over the
picture, so that any size gives one vector of the same length.

    moments    of |c| for each coefficient c of a block transform of luma: how strong, how
               heavy-tailed, how sparse (blocks of 4 and 8 pixels, at full size, a half and a
               quarter)
    together   correlation between the log strengths of the 16 coefficients of 4-pixel blocks
    spectrum   power of luma by frequency and direction, averaged over overlapping windows
               (Welch, IEEE Trans. Audio Electroacoust. 1967)
    natural    natural-scene statistics of luma and chroma: moments of the locally normalised
               plane and of products of its neighbours (Mittal et al., BRISQUE, TIP 2012)
    colour     how colours spread, and how fine detail goes together across channels
    words      which local patterns of edges there are, see `words.py`

Shapes: B images, H, W pixels, N side of a block, D length of the vector (`WIDTH`).
Values of planes are 0 to 255. Everything is differentiable and computed in float32.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ma_agiqa.experts import words
from ma_agiqa.experts.smoothing import box_mean

MIN_SIDE = 32
"""Pixels of the shorter side below which the coarsest blocks do not fit."""

_FLOOR = 1e-3  # of mean magnitudes, in grey levels: keeps logarithms of flat pictures finite
_TINY = 1e-12  # under a root, where its slope would be infinite
_SOFT = 0.3  # grey levels, added before the logarithm of a single coefficient
_MOMENTS = ((1, 4), (2, 4), (1, 8), (2, 8), (4, 8))  # (reduction, side of a block)
_WINDOW, _RINGS, _SECTORS = 256, 48, 4  # of the spectrum: pixels, frequencies, directions


GROUPS = {
    **{f"moments-{scale}-{side}": 3 * side * side for scale, side in _MOMENTS},
    "together": 120,
    "spectrum": 240,
    "natural": 128,
    "colour": 30,
    "words": words.SIZE,
}
"""Length of each group of statistics; the words come last, for they are many."""

WIDTH = sum(GROUPS.values())

EDITION = 3
"""Grows whenever a statistic of the same picture changes; models of another edition are wrong."""


def statistics_vector(images: Tensor) -> Tensor:
    """Return all statistics of images (B, 3, H, W) in [0, 1], in the order of `GROUPS`: (B, D)."""
    groups = picture_statistics(images)
    return torch.cat([groups[name] for name in GROUPS], 1)


def picture_statistics(images: Tensor) -> dict[str, Tensor]:
    """Return the groups of statistics of images (B, 3, H, W) in [0, 1], each (B, D_group)."""
    rgb = images.float() * 255.0
    luma = rgb[:, 0] * 0.299 + rgb[:, 1] * 0.587 + rgb[:, 2] * 0.114
    blue, red = (rgb[:, 2] - luma) * 0.564, (rgb[:, 0] - luma) * 0.713
    reduced = {1: luma, 2: _reduce(luma, 2), 4: _reduce(luma, 4)}
    groups = {}
    for scale, side in _MOMENTS:
        coefficients = block_transform(reduced[scale], side)
        groups[f"moments-{scale}-{side}"] = _moments(coefficients)
        if (scale, side) == (1, 4):
            groups["together"] = _together(coefficients)
    groups["spectrum"] = _spectrum(luma)
    planes = ((luma, range(4)), (blue, range(1, 3)), (red, range(1, 3)))
    groups["natural"] = torch.cat([_natural(plane, levels) for plane, levels in planes], 1)
    groups["colour"] = _colour(rgb, luma)
    groups["words"] = words.fisher_vectors(reduced)
    return groups


def block_transform(plane: Tensor, side: int) -> Tensor:
    """Return the cosine transform of blocks of (B, H, W): (B, H // N, W // N, N, N).

    Rows and columns that fill no block are left out.
    """
    cosine = torch.as_tensor(_cosine(side), device=plane.device)
    rows, columns = plane.shape[1] // side, plane.shape[2] // side
    blocks = plane[:, : rows * side, : columns * side].reshape(-1, rows, side, columns, side)
    return cosine @ blocks.transpose(2, 3) @ cosine.T


def _moments(c: Tensor) -> Tensor:
    size = c.abs()
    mean = size.mean((1, 2)) + _FLOOR
    square = (c * c).mean((1, 2)) + _FLOOR**2
    root = (size + 1e-12).sqrt().mean((1, 2)) + _FLOOR
    logs = [mean.log(), (square / mean**2).log(), (root**2 / mean).log()]
    return torch.cat([x.flatten(1) for x in logs], 1)


def _together(c: Tensor) -> Tensor:
    """Correlations over the blocks between log strengths, upper triangle, (B, 120)."""
    strength = (c.abs() + _SOFT).log().flatten(3).flatten(1, 2)  # (B, blocks, 16)
    return _correlations(strength.transpose(1, 2))


def _correlations(x_BCN: Tensor) -> Tensor:
    x_BCN = x_BCN - x_BCN.mean(2, keepdim=True)
    products = x_BCN @ x_BCN.transpose(1, 2)
    norms = (products.diagonal(dim1=1, dim2=2) + _TINY).sqrt() + _FLOOR
    above = torch.triu_indices(x_BCN.shape[1], x_BCN.shape[1], 1, device=x_BCN.device)
    return (products / norms[:, :, None] / norms[:, None])[:, above[0], above[1]]


def _spectrum(plane: Tensor) -> Tensor:
    """Log mean power in every bin of frequency and direction, (B, 240).

    A side shorter than the window is continued by reflection.
    """
    for axis in (1, 2):
        if plane.shape[axis] < _WINDOW:
            plane = plane.index_select(axis, _continued(plane.shape[axis], plane.device))
    tops, lefts = (_window_starts(length) for length in plane.shape[1:])
    windows = torch.stack(
        [plane[:, t : t + _WINDOW, x : x + _WINDOW] for t in tops for x in lefts], 1
    )
    fade = torch.hann_window(_WINDOW, periodic=False, device=plane.device)
    windows = (windows - windows.mean((2, 3), keepdim=True)) * (fade * fade[:, None])
    waves = torch.fft.rfft2(windows)
    power = (waves.real.square() + waves.imag.square()).mean(1).flatten(1)
    bins, sizes = (torch.as_tensor(x, device=plane.device) for x in _frequency_bins())
    summed = power.new_zeros(len(power), len(sizes)).index_add(1, bins, power)
    return torch.log(summed[:, 1:] / sizes[1:] + 10 * _FLOOR)


def _continued(length: int, device: torch.device) -> Tensor:
    """Return positions that continue a shorter side by reflection up to the window."""
    turn = 2 * (length - 1)
    place = torch.arange(_WINDOW, device=device) % turn
    return torch.minimum(place, turn - place)


def _window_starts(length: int) -> list[int]:
    """Return starts about half a window apart, from one edge to the other."""
    steps = -(-(length - _WINDOW) // (_WINDOW // 2))
    return [round(i * (length - _WINDOW) / max(1, steps)) for i in range(steps + 1)]


@functools.lru_cache(maxsize=1)
def _frequency_bins() -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the bin of every frequency of a window, and the bins' sizes; bin 0 is the mean."""
    down = np.abs(np.fft.fftfreq(_WINDOW))[:, None]
    right = np.fft.rfftfreq(_WINDOW)[None]
    ring = (np.hypot(down, right) / 0.5 * _RINGS).astype(int)
    sector = (np.arctan2(down, right) / (math.pi / 2) * _SECTORS * 0.9999).astype(int)
    number = (ring * _SECTORS + sector + 1).ravel()
    number[0] = 0
    _, bins, sizes = np.unique(number, return_inverse=True, return_counts=True)
    return bins, sizes.astype(np.float32)


def _natural(plane: Tensor, levels: range) -> Tensor:
    out = []
    for level in levels:
        normal = _locally_normal(_reduce(plane, 2**level))
        out.extend(_shape(normal))
        right, down = normal[:, :, 1:], normal[:, 1:]
        for product in (
            normal[:, :, :-1] * right,
            normal[:, :-1] * down,
            normal[:, :-1, :-1] * down[:, :, 1:],
            normal[:, :-1, 1:] * down[:, :, :-1],
        ):
            positive = _mean_square(F.relu(product))
            negative = _mean_square(product) - positive
            out.append(product.mean((1, 2)))
            out.extend((half.clamp_min(0) + 1e-8).sqrt() for half in (negative, positive))
    return torch.stack(out, 1)


def _locally_normal(plane: Tensor) -> Tensor:
    """Subtract the mean of the box around each pixel and divide by the deviation + 1."""
    mean = box_mean(plane[:, None])[:, 0]
    square = box_mean((plane * plane)[:, None])[:, 0]
    deviation = square.sub_(mean * mean).clamp_min(0.0).add_(1e-6).sqrt()
    return (plane - mean) / (deviation + 1.0)


def _mean_square(x: Tensor) -> Tensor:
    """Return the mean square of (B, H, W), (B,).

    A matrix product takes one pass over it, and its sums are exact to some 1e-7; those of
    `torch.linalg.vector_norm` over as many float32 numbers are off by up to 5e-4.
    """
    flat = x.flatten(1)
    return (flat[:, None] @ flat[:, :, None]).flatten() / flat.shape[1]


def _shape(x: Tensor) -> list[Tensor]:
    """Return log variance, log peakedness, skewness and log kurtosis, each (B,)."""
    squares = x * x
    mean, square = x.abs().mean((1, 2)) + 1e-6, _mean_square(x) + 1e-8
    skew = (squares * x).mean((1, 2)) / square**1.5
    kurtosis = _mean_square(squares) / square**2 + _FLOOR
    return [square.log(), (mean**2 / square).log(), skew.clamp(-8, 8), kurtosis.log()]


def _colour(rgb: Tensor, luma: Tensor) -> Tensor:
    out = []
    for scale in (1, 2, 4):
        plane = _reduce(rgb, scale)
        inner = plane[:, :, 1:-1, 1:-1]
        cross = plane[:, :, :-2, 1:-1] + plane[:, :, 2:, 1:-1]
        cross += plane[:, :, 1:-1, :-2]
        cross += plane[:, :, 1:-1, 2:]
        out.append(_correlations(torch.sub(inner, cross, alpha=0.25).flatten(2)))
    half = _reduce(rgb, 2) / 255
    out += [*_spread(half), _correlations(half.flatten(2))]
    red, green, blue = half.unbind(1)
    out += _spread(torch.stack([red - green, (red + green) / 2 - blue], 1))
    saturation = (half.amax(1) - half.amin(1)) / (half.amax(1) + 1 / 255)
    bright = _reduce(luma, 2) / 255
    for plane, places in ((bright, (0.03, 0.25, 0.5, 0.75, 0.97)), (saturation, (0.1, 0.3, 0.6))):
        below = [torch.sigmoid((place - plane) * 25).mean((1, 2)) for place in places]
        out.append(torch.stack(below, 1))
    return torch.cat(out, 1)


def _spread(x: Tensor) -> list[Tensor]:
    """Return mean and standard deviation of every channel of (B, C, H, W), each (B, C)."""
    mean = x.mean((2, 3))
    return [mean, ((x * x).mean((2, 3)) - mean * mean).clamp_min(0).add(1e-8).sqrt()]


def _reduce(x: Tensor, factor: int) -> Tensor:
    """Average squares of `factor` pixels; rows and columns that fill none are left out."""
    for _ in range(factor.bit_length() - 1):
        rows, columns = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
        x = x[..., :rows, :columns]
        x = x[..., ::2, :] + x[..., 1::2, :]
        x = (x[..., ::2] + x[..., 1::2]) * 0.25
    return x


# Kept as arrays: a tensor made while scoring could not take part in a gradient later.
@functools.lru_cache(maxsize=8)
def _cosine(side: int) -> NDArray[np.float32]:
    """Orthonormal type-II cosine transform, (N, N)."""
    u, i = np.mgrid[0:side, 0:side]
    matrix = np.cos(math.pi * (2 * i + 1) * u / (2 * side)) * math.sqrt(2 / side)
    matrix[0] /= math.sqrt(2)
    return matrix.astype(np.float32)
