"""Noise and shading helpers that the scenes share.

Shapes: any; all functions work elementwise on arrays of one shape, colours in the last axis.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]


def smoothstep(low: float, high: float, x: Field) -> Field:
    """Rise from 0 at `low` to 1 at `high` with flat ends; `low` may be above `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Field | tuple[float, ...], b: Field | tuple[float, ...], t: Field) -> Field:
    """Blend two colours by a field of shares without a colour axis."""
    t = np.asarray(t)[..., None]
    return np.asarray(a) * (1 - t) + np.asarray(b) * t


def gradient_noise(x: Field, y: Field, seed: int) -> Field:
    """Return Perlin's gradient noise, about -1 to 1, with one feature per unit of x and y."""
    rng = np.random.default_rng(seed)
    permutation = np.tile(rng.permutation(256), 2)
    angle = rng.uniform(0, 2 * np.pi, 256)
    slope_x, slope_y = np.cos(angle), np.sin(angle)
    column, row = np.floor(x), np.floor(y)
    u, v = x - column, y - row
    i, j = column.astype(np.int64) & 255, row.astype(np.int64) & 255

    def corner(di: int, dj: int) -> Field:
        slope = permutation[permutation[(i + di) & 255] + ((j + dj) & 255)]
        return slope_x[slope] * (u - di) + slope_y[slope] * (v - dj)

    su = u * u * u * (u * (6 * u - 15) + 10)
    sv = v * v * v * (v * (6 * v - 15) + 10)
    near = corner(0, 0) * (1 - su) + corner(1, 0) * su
    far = corner(0, 1) * (1 - su) + corner(1, 1) * su
    return (near * (1 - sv) + far * sv) * 1.5


def fractal_noise(x: Field, y: Field, seed: int, octaves: int, *, ridged: bool = False) -> Field:
    """Sum octaves of noise, each twice as fine and half as strong; ridged folds it into crests."""
    total = np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y)))
    strength, scale = 0.5, 1.0
    for octave in range(octaves):
        # Turned by a fixed angle, so that the grids of the octaves do not line up.
        c, s = np.cos(0.6 * octave) * scale, np.sin(0.6 * octave) * scale
        layer = gradient_noise(c * x - s * y + 17.3 * octave, s * x + c * y, seed + octave)
        total += strength * (1 - 2 * np.abs(layer) if ridged else layer)
        strength, scale = strength / 2, scale * 2
    return total


def screen(size: int) -> tuple[Field, Field]:
    """Return x (-1 left to 1 right) and y (-1 bottom to 1 top) of the pixel centres."""
    at = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(at, -at)
    return x, y
