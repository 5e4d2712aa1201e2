"""Visual words: which local patterns of edges a picture is made of.

Dense descriptors of oriented gradients (Lowe's SIFT, IJCV 2004, on a regular grid) are compared
with a mixture of 32 Gaussians, the words; the vector says how those of the picture depart from
each word in mean and variance (Fisher vector: Perronnin, Sánchez and Mensink, ECCV 2010, with its
signed root and unit length). It sees what averages over all blocks cannot: how edges lie beside
each other in lines, corners and textures.

The words are learned from no photograph and no rated picture, but from random shapes that
`scripts/learn_words.py` renders, and are a constant of the package.

Shapes: B images, H, W pixels, N descriptors of a picture, K words, Z numbers of a descriptor.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor, nn

WORDS, KEPT = 32, 32
"""Words at each size of the picture; numbers that a descriptor is reduced to."""

LEVELS = ((1, 2), (2, 1))
"""Reduction of the picture, and step between descriptors in cells."""

SIZE = len(LEVELS) * 2 * WORDS * KEPT
"""Length of the vector."""

ASSET = Path(__file__).parents[1] / "assets" / "words.safetensors"

_ORIENTATIONS, _CELL, _CELLS = 8, 4, 4  # pixels of a cell's side, cells of a descriptor's side
_EVEN, _MOST, _FEW = 2.0, 0.25, 0.02  # softens the norm; no number is larger; softens the second
_TINY = 1e-12  # under a root, where its slope would be infinite


def fisher_vectors(planes: dict[int, Tensor]) -> Tensor:
    """Return the Fisher vectors of luma planes (B, H, W), by their reduction: (B, SIZE)."""
    found = []
    for reduction, step in LEVELS:
        plane = planes[reduction]
        words = {
            k: torch.as_tensor(v, device=plane.device) for k, v in vocabulary()[reduction].items()
        }
        vectors = [_fisher(x - words["centre"], words) for x in descriptors(plane, step)]
        found.append(_evened(torch.stack(vectors)))
    return torch.cat(found, 1)


def descriptors(plane_BHW: Tensor, step: int) -> Tensor:
    """Return descriptors (B, N, Z) of luma planes with values of 0 to 255.

    The numbers kept are the lowest frequencies over the cells and around the circle.
    """
    cells = _gradients(plane_BHW)
    x_BNZ = F.unfold(cells, _CELLS, stride=step).transpose(1, 2)
    x_BNZ = x_BNZ / (_norm(x_BNZ) + _EVEN)
    x_BNZ = x_BNZ.clamp_max(_MOST)
    x_BNZ = x_BNZ / (_norm(x_BNZ) + _FEW)
    return (x_BNZ + _TINY).sqrt() @ torch.as_tensor(_waves()).to(plane_BHW)


def likely(x_NZ: Tensor, words: dict[str, Tensor]) -> Tensor:
    """Return the probability (N, K) that each descriptor belongs to each word."""
    precise = 1 / words["variance"]
    constant = (words["mean"].square() * precise + words["variance"].log()).sum(1)
    apart = x_NZ.square() @ precise.T - 2 * x_NZ @ (words["mean"] * precise).T + constant
    return (words["share"].log() - 0.5 * apart).softmax(1)


@functools.lru_cache(maxsize=1)
def vocabulary() -> dict[int, dict[str, NDArray[np.float32]]]:
    """Return the words by reduction: centre (Z,), mean and variance (K, Z), share (K,)."""
    stored = load_file(ASSET)
    names = ("centre", "mean", "variance", "share")
    return {level: {name: stored[f"{name}-{level}"] for name in names} for level, _ in LEVELS}


class Components(nn.Module):
    """Reduce the words' part of statistics (B, SIZE) to its leading directions (B, C).

    Args:
        count: C.
    """

    centre: Tensor
    directions: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(SIZE))
        self.register_buffer("directions", torch.zeros(SIZE, count))

    def forward(self, x_BS: Tensor) -> Tensor:
        """Return coordinates (B, C)."""
        return (x_BS - self.centre) @ self.directions


def _fisher(x_NZ: Tensor, words: dict[str, Tensor]) -> Tensor:
    """Return gradients of the mixture's likelihood by its means and variances, (2 K Z,)."""
    mean, variance, share = (words[name] for name in ("mean", "variance", "share"))
    belongs = likely(x_NZ, words)
    count, total, square = belongs.sum(0)[:, None], belongs.T @ x_NZ, belongs.T @ x_NZ.square()
    by_mean = (total - count * mean) / variance.sqrt() / share.sqrt()[:, None]
    spread = square - 2 * total * mean + count * (mean.square() - variance)
    by_variance = spread / variance / (2 * share).sqrt()[:, None]
    return torch.cat([by_mean.flatten(), by_variance.flatten()]) / len(x_NZ)


def _evened(x_BS: Tensor) -> Tensor:
    """Take signed roots, then unit length."""
    x_BS = x_BS / (x_BS.abs() + _TINY).sqrt()
    return x_BS / _norm(x_BS)


def _norm(x: Tensor) -> Tensor:
    return (x.square().sum(-1, keepdim=True) + _TINY).sqrt()


def _gradients(plane_BHW: Tensor) -> Tensor:
    """Return mean strengths of gradients by orientation in cells, (B, 8, H // 4, W // 4)."""
    padded = F.pad(plane_BHW[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    right = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    size = (right.square() + down.square() + _TINY).sqrt()
    cells = []
    for k in range(_ORIENTATIONS):
        angle = 2 * math.pi * k / _ORIENTATIONS
        along = F.relu(math.cos(angle) * right + math.sin(angle) * down)
        cells.append(F.avg_pool2d(along * (along / size).square(), _CELL))
    return torch.stack(cells, 1)


# Kept as arrays: a tensor made while scoring could not take part in a gradient later.
@functools.lru_cache(maxsize=1)
def _waves() -> NDArray[np.float32]:
    """Return the lowest `KEPT` products of waves around the circle and along both sides."""
    turn = 2 * math.pi * np.arange(_ORIENTATIONS) / _ORIENTATIONS
    around = [np.ones(_ORIENTATIONS) / math.sqrt(8)]
    for k in (1, 2, 3):
        around += [np.cos(k * turn) / 2, np.sin(k * turn) / 2]
    around.append(np.cos(4 * turn) / math.sqrt(8))
    u, i = np.mgrid[:_CELLS, :_CELLS]
    along = np.cos(math.pi * (2 * i + 1) * u / (2 * _CELLS)) * math.sqrt(2 / _CELLS)
    along[0] /= math.sqrt(2)
    waves = np.einsum("ao,by,cx->abcoyx", np.array(around), along, along).reshape(128, 128)
    circle = np.array([0, 1, 1, 2, 2, 3, 3, 4])[:, None, None] ** 2 / 2
    height = circle + np.arange(_CELLS)[:, None] ** 2 + np.arange(_CELLS) ** 2
    return waves[np.argsort(height.ravel(), kind="stable")[:KEPT]].T.astype(np.float32)
