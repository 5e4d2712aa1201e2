"""The rules by which the reference outputs were made: weights and inputs from names.

Every tensor is a function of its name, its shape and a seed, so the recorded outputs need no
recorded weights. The rules are stated in `fixtures/README.md`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def rng(tag: str, seed: int) -> np.random.Generator:
    """Return the generator that belongs to a name."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(tag.encode()) + seed))


def weight(
    name: str, shape: Sequence[int], seed: int, norm: bool = False, gain: float = 1.0
) -> NDArray[np.float32]:
    """Return the tensor that the rule gives to `name`; `norm` marks weights of norms."""
    values = rng(name, seed).standard_normal(tuple(shape))
    if norm:
        values = 1.0 + 0.1 * values
    elif len(shape) >= 2:
        values = values * (1.0 / np.sqrt(np.prod(shape[1:], dtype=np.float64)))
    else:
        values = 0.1 * values
    if gain != 1.0:
        values = gain * values
    return values.astype(np.float32)


def images(n: int, side: int, seed: int, tag: str = "images") -> NDArray[np.float32]:
    """Return waves with noise, shape (n, 3, side, side), within [-1, 1]."""
    g = rng(tag, seed)
    f = g.uniform(0.5, 4.0, (n, 3, 2))
    p = g.uniform(0.0, 2 * np.pi, (n, 3, 1, 1))
    z = g.standard_normal((n, 3, side, side))
    t = np.arange(side, dtype=np.float64) / side
    rows, columns = t[None, None, :, None], t[None, None, None, :]
    phase = f[:, :, 0, None, None] * rows + f[:, :, 1, None, None] * columns
    wave = np.sin(2 * np.pi * phase + p)
    return np.clip(0.6 * wave + 0.25 * z, -1.0, 1.0).astype(np.float32)
