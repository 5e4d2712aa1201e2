"""A dahlia after rain: petals in golden-angle order, leaves, drops, and a blurred garden behind.

Petals are painted from the outermost to the innermost, each first throwing a soft shadow.
"""

from __future__ import annotations

import numpy as np

from sample_scenes.fields import Field, fractal_noise, mix, screen, smoothstep

GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
CENTRE = (-0.02, -0.02)
LIGHT = np.array([-0.50, 0.62, 0.60])
PETALS = 150


def render(size: int) -> Field:
    x, y = screen(size)
    light = garden(x, y)
    rng = np.random.default_rng(3)
    for turn, length in ((0.5, 1.15), (2.3, 1.2), (3.7, 1.1), (5.4, 1.25)):
        paint_blade(light, x, y, turn=turn, start=0.25, length=length * 0.9, width=0.30, leaf=True)
    for k in range(PETALS):
        age = 1 - k / PETALS  # 1 outermost, 0 innermost
        paint_blade(
            light, x, y,
            turn=k * GOLDEN_ANGLE + rng.normal(0, 0.05),
            start=0.02 + 0.30 * age**1.1,
            length=(0.10 + 0.44 * age**0.75) * rng.uniform(0.93, 1.07),
            width=0.035 + 0.105 * age**0.7,
            age=age,
            seed=k,
        )  # fmt: skip
    for _ in range(85):
        turn, out = rng.uniform(0, 2 * np.pi), 0.12 + 0.62 * np.sqrt(rng.random())
        radius = 0.007 + 0.020 * rng.random() ** 2.5
        drop(light, x, y, CENTRE[0] + out * np.cos(turn), CENTRE[1] + out * np.sin(turn), radius)
    return 0.55 * light**1.12


def garden(x: Field, y: Field) -> Field:
    """Out-of-focus greens with discs of light."""
    patch = fractal_noise(x * 1.4, y * 1.4, 81, 3)
    light = mix((0.012, 0.03, 0.014), (0.07, 0.15, 0.04), smoothstep(-0.4, 0.5, patch + 0.3 * y))
    rng = np.random.default_rng(12)
    for cx, cy, r, b in rng.uniform((-1.1, -1.1, 0.05, 0), (1.1, 1.1, 0.17, 1), (60, 4)):
        away = np.hypot(x - cx, y - cy) / r
        disc = smoothstep(1.03, 0.94, away) * (0.75 + 0.35 * smoothstep(0.7, 1.0, away))
        tint = mix((0.10, 0.20, 0.04), (0.50, 0.45, 0.16), np.array(b**2))
        light = light + disc[..., None] * tint * (0.10 + 0.55 * b**3)
    return light


def paint_blade(
    light: Field, x: Field, y: Field, *, turn: float, start: float, length: float, width: float,
    age: float = 1.0, seed: int = 0, leaf: bool = False,
) -> None:  # fmt: skip
    """Paint one petal or leaf into `light`, pointing away from the centre at angle `turn`."""
    c, s = np.cos(turn), np.sin(turn)
    middle = start + length / 2
    box = window(x, y, CENTRE[0] + c * middle, CENTRE[1] + s * middle, length / 2 + width + 0.06)
    px, py = x[box] - CENTRE[0], y[box] - CENTRE[1]
    shadow, _, _ = outline(px - 0.020, py + 0.028, c, s, start, length, width, seed)
    light[box] *= 1 - 0.62 * smoothstep(-0.22, 0.25, shadow)[..., None]

    inside, along, across = outline(px, py, c, s, start, length, width, seed)
    mask = smoothstep(-0.012, 0.012, inside)
    side = np.clip(across, -1, 1)
    # A trough along the middle, rims curling up, the tip bending away.
    tilt_side = (-0.95 * side + 0.5 * side**3) if not leaf else 0.5 * np.sign(side) - 0.3 * side
    tilt_along = -0.55 + 1.35 * along**1.5
    vein = np.sin(side * (10 if not leaf else 3) + along * (0 if not leaf else 60) * np.sign(side))
    rough = fractal_noise(along * 6 + seed, side * 14 + seed * 3.1, 55, 4)
    tilt_side = tilt_side + 0.16 * vein * (1 - along) + 0.18 * rough
    nx, ny = tilt_along * c - tilt_side * s, tilt_along * s + tilt_side * c
    nz = 1 / np.sqrt(1 + nx**2 + ny**2)
    facing = (LIGHT[0] * nx + LIGHT[1] * ny + LIGHT[2]) * nz / np.linalg.norm(LIGHT)
    if leaf:
        colour = mix(
            (0.02, 0.09, 0.02), (0.09, 0.24, 0.05), smoothstep(-0.5, 0.6, rough + 0.3 * vein)
        )
        rib = smoothstep(0.07, 0.02, np.abs(side))
        colour = mix(colour, (0.20, 0.36, 0.10), rib * 0.8)
    else:
        warm = np.clip(along * 1.1 - 0.12 + 0.10 * rough, 0, 1)
        colour = mix((0.30, 0.012, 0.07), (0.86, 0.16, 0.24), smoothstep(0, 0.6, warm))
        colour = mix(colour, (0.98, 0.66, 0.52), smoothstep(0.55, 1.05, warm))
        colour = mix((0.62, 0.30, 0.04), colour, np.full(px.shape, np.clip(age * 7, 0, 1)))
        colour = colour * (1 + 0.10 * vein + 0.16 * rough)[..., None]
    deep = (0.25 + 0.75 * smoothstep(0.0, 0.55, along)) if not leaf else 1.0
    through = 0.16 * (1 - facing.clip(0, 1)) * along  # light shining through the thin tip
    bright = (0.20 + 1.75 * facing.clip(0, 1) ** 1.2) * deep + through
    gloss = facing.clip(0, 1) ** 26 * (0.10 if not leaf else 0.22)
    light[box] = mix(light[box], colour * bright[..., None] + gloss[..., None], mask)


def outline(
    px: Field, py: Field, c: float, s: float, start: float, length: float, width: float, seed: int
) -> tuple[Field, Field, Field]:
    """Return how far inside the blade each place is (in half widths), and its place on it."""
    along = (px * c + py * s - start) / length
    bend = 0.10 * np.sin(seed * 2.4) * along**2
    aside = -px * s + py * c - bend * length
    t = np.clip(along, 1e-6, 1 - 1e-6)
    half = width * np.sin(np.pi * t**0.85) ** 0.62 * (0.55 + 0.55 * t)
    half = np.maximum(half * (1 + 0.05 * np.sin(9 * t + seed)), 1e-4)
    ends = np.minimum(along, 1 - along) * length
    return np.minimum((half - np.abs(aside)) / width, ends / width), t, aside / half


def drop(light: Field, x: Field, y: Field, cx: float, cy: float, radius: float) -> None:
    """Set a drop of water on what is painted so far."""
    box = window(x, y, cx, cy, radius * 2.5)
    u, v = (x[box] - cx) / radius, (y[box] - cy) / radius
    shadow = smoothstep(1.35, 0.6, np.hypot(u - 0.35, v + 0.45))
    light[box] *= 1 - 0.5 * shadow[..., None]
    r = np.hypot(u, v)
    # A drop gathers light on the side away from the source, and mirrors the source on the near.
    lens = 0.55 + 0.95 * smoothstep(-0.9, 0.9, 0.6 * u - 0.8 * v) + 0.25 * smoothstep(0.8, 1, r)
    glint = smoothstep(0.30, 0.12, np.hypot(u + 0.38, v - 0.45))
    base = light[box].mean(axis=(0, 1)) * 1.25 + 0.01
    water = 0.35 * light[box] + 0.65 * base * lens[..., None]
    water = water + glint[..., None] * (3.0, 3.0, 2.8)
    light[box] = mix(light[box], water, smoothstep(1.0, 0.9, r))


def window(x: Field, y: Field, cx: float, cy: float, reach: float) -> tuple[slice, slice]:
    """Return the slices of the picture within `reach` of a point."""
    columns, rows = x[0], -y[:, 0]  # both rising
    return (
        slice(*np.searchsorted(rows, (-cy - reach, -cy + reach))),
        slice(*np.searchsorted(columns, (cx - reach, cx + reach))),
    )
