"""A city across a harbour at night: lit windows, lamps, a moon, and all of it in the water."""

from __future__ import annotations

import numpy as np

from sample_scenes.fields import Field, fractal_noise, mix, screen, smoothstep

WATER = -0.22  # height of the waterline on the screen
WARM, COOL = np.array((1.0, 0.62, 0.26)), np.array((0.72, 0.86, 1.0))
# seed, buildings, lowest and highest roof, windows across the picture, haze
LAYERS = (
    (11, 34, 0.10, 0.52, 150, 0.62),
    (23, 24, 0.02, 0.62, 110, 0.34),
    (37, 17, -0.08, 0.34, 84, 0.0),
)


def render(size: int) -> Field:
    x, y = screen(size)
    above = city(x, np.maximum(y, WATER))
    return 0.8 * np.where((y < WATER)[..., None], water(above, x, y), above) ** 1.1


def city(x: Field, y: Field) -> Field:
    light = night_sky(x, y)
    for layer in LAYERS:
        light = buildings(light, x, y, *layer)
    return quay(light, x, y)


def night_sky(x: Field, y: Field) -> Field:
    up = np.clip(y - WATER, 0, 2)
    light = mix((0.20, 0.10, 0.085), (0.035, 0.045, 0.11), smoothstep(0.0, 0.75, up))
    light = mix(light, (0.008, 0.014, 0.05), smoothstep(0.5, 1.25, up))
    cloud = fractal_noise(x * 1.3 + 3, y * 3.2, 14, 7)
    light = mix(light, (0.16, 0.12, 0.14), smoothstep(0.05, 0.5, cloud) * 0.65)

    rng = np.random.default_rng(7)
    for sx, sy, bright in rng.uniform((-1, 0.1, 0), (1, 1, 1), (170, 3)):
        near = (np.abs(x[0] - sx) < 0.02).nonzero()[0], (np.abs(y[:, 0] - sy) < 0.02).nonzero()[0]
        box = np.ix_(near[1], near[0])
        spot = np.exp(-((x[box] - sx) ** 2 + (y[box] - sy) ** 2) / 4e-6)
        light[box] += (spot * bright**4 * 1.6)[..., None] * (0.8, 0.9, 1.0)

    u, v = (x - 0.52) / 0.13, (y - 0.66) / 0.13
    r = np.hypot(u, v)
    seas = smoothstep(-0.1, 0.35, fractal_noise(u * 1.3 + 4, v * 1.3, 19, 5))
    craters = fractal_noise(u * 5, v * 5, 28, 4)
    disc = (1.5 - 0.75 * seas + 0.25 * craters) * (0.5 + 0.5 * np.sqrt(np.clip(1 - r * r, 0, 1)))
    light = mix(light, disc[..., None] * (1.0, 0.95, 0.82), smoothstep(1.0, 0.985, r))
    return light + (np.exp(-np.maximum(r - 1, 0) * 1.1) * 0.11)[..., None] * (0.9, 0.9, 1.0)


def buildings(
    light: Field, x: Field, y: Field, seed: int, count: int, low: float, high: float,
    windows: int, haze: float,
) -> Field:  # fmt: skip
    """Draw one row of buildings over `light`."""
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.uniform(-1.05, 1.05, count - 1))
    which = np.searchsorted(edges, x)
    bound = np.concatenate([[-1.1], edges, [1.1]])
    left, right = bound[which], bound[which + 1]
    centre = np.abs((x - left) / np.maximum(right - left, 1e-6) - 0.5) * 2
    skyline = np.exp(-((bound[:-1] + 0.25) ** 2) / 0.35)  # a taller middle
    roof = low + (high - low) * rng.uniform(0.1, 1, count) ** 1.3 * (0.35 + 0.65 * skyline)
    shape = rng.integers(0, 4, count)[which]
    top = roof[which] + np.select(
        [shape == 1, shape == 2], [-0.05 * (centre > 0.6), -0.09 * centre * (centre > 0.15)], 0.0
    )
    mast = (shape == 3) & (np.abs(x - (left + right) / 2) < 0.0022) & (y < top + 0.11)
    solid = (y < top) | mast

    u, v = (x + 1) * windows / 2, (y - WATER) * windows * 0.42
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    dice = np.random.default_rng(seed + 1).random((3, 512, 512))[:, i % 512, j % 512]
    busy = rng.uniform(0.12, 0.6, count)[which]
    glass = (np.abs(u % 1 - 0.5) < 0.33) & (np.abs(v % 1 - 0.48) < 0.30) & (y < top - 0.012)
    inside = (x - left > 0.006) & (right - x > 0.006)
    lit = glass & inside & (dice[0] < busy) & ~mast
    lamp = mix(WARM, COOL, (dice[2] > 0.72) * 0.9) * (0.25 + 1.5 * dice[1] ** 2)[..., None]
    blinds = 0.55 + 0.45 * smoothstep(0.2, 0.7, v % 1)

    tone = rng.uniform(0.5, 1.4, count)[which] * (1 + 0.5 * fractal_noise(x * 40, y * 12, seed, 3))
    side = 0.7 + 0.6 * ((x - left) / np.maximum(right - left, 1e-6))  # moonlit from the right
    wall = (tone * side)[..., None] * np.array((0.020, 0.021, 0.032))
    wall = wall + (np.exp(-(y - WATER) * 7) * 0.10)[..., None] * WARM  # street light from below
    pane = np.where((glass & inside)[..., None], wall * 0.6 + (0.006, 0.009, 0.016), wall)
    face = np.where(lit[..., None], lamp * blinds[..., None], pane)
    face = mix(face, (0.11, 0.075, 0.085), np.full(x.shape, haze * 0.55))
    light = np.where(solid[..., None], face, light)
    for k in np.flatnonzero(rng.integers(0, 4, count) == 3):
        middle = (bound[k] + bound[k + 1]) / 2
        glow = np.exp(-np.hypot(x - middle, y - roof[k] - 0.012) / 0.006)
        light = light + glow[..., None] * (1.3, 0.06, 0.04)
    return light


def quay(light: Field, x: Field, y: Field) -> Field:
    wall = y < WATER + 0.022 + 0.004 * np.sign(np.sin(x * 21))
    stone = (0.05 + 0.05 * fractal_noise(x * 50, y * 90, 6, 4))[..., None] * np.array(
        (1.0, 0.8, 0.6)
    )
    light = np.where(wall[..., None], stone, light)
    colours = (WARM, WARM, COOL, np.array((1.0, 0.30, 0.16)), WARM, np.array((0.35, 1.0, 0.6)))
    for k, place in enumerate(np.arange(-0.95, 1.0, 0.112)):
        place += 0.02 * np.sin(k * 5.1)
        away = np.hypot(x - place, y - WATER - 0.058)
        glow = np.exp(-((away / 0.008) ** 2)) * 4 + np.exp(-away / 0.035) * 0.55
        post = (np.abs(x - place) < 0.0016) & (y < WATER + 0.058)
        light = np.where(post[..., None], 0.02, light) + glow[..., None] * colours[k % 6]
    return light


def water(above: Field, x: Field, y: Field) -> Field:
    """Mirror the city, smeared downwards by ripples as wind does."""
    size = len(above)
    depth = np.clip(WATER - y, 0, None)
    z = 1 / (depth + 0.03)
    light = np.zeros_like(above)
    taps = 9
    for k in range(taps):
        ripple = fractal_noise(x * z * 1.6 + 0.05 * k, z * 7 + 0.35 * k, 66, 3)
        column = np.clip((x + 0.028 * ripple + 1) * size / 2, 0, size - 1).astype(int)
        stretch = 0.92 + 0.16 * k / taps
        mirrored = WATER + depth * stretch + 0.24 * ripple * np.sqrt(depth) * 0.55
        row = np.clip((1 - np.maximum(mirrored, WATER + 0.003)) * size / 2, 0, size - 1).astype(int)
        light += above[row, column] / taps
    swell = fractal_noise(x * z * 1.6, z * 7, 66, 5)
    clear = np.clip(0.80 - 0.35 * depth + 0.35 * swell, 0.1, 1)
    return light * clear[..., None] + (0.004, 0.007, 0.014)
