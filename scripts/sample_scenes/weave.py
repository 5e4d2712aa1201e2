"""A folded woollen tartan, woven thread by thread in a 2/2 twill."""

from __future__ import annotations

import numpy as np

from sample_scenes.fields import Field, fractal_noise, screen, smoothstep

THREADS = 150  # across the picture
# threads of each colour, mirrored at both ends as tartans are
SETT = (
    (18, "green"),
    (3, "navy"),
    (3, "green"),
    (16, "navy"),
    (2, "red"),
    (6, "navy"),
    (2, "gold"),
)
COLOURS = {
    "green": (0.03, 0.13, 0.06),
    "navy": (0.02, 0.035, 0.12),
    "red": (0.52, 0.03, 0.03),
    "gold": (0.72, 0.50, 0.10),
}


def render(size: int) -> Field:
    x, y = screen(size)
    height, slope_x, slope_y = folds(x, y)
    # The cloth lies in folds: threads crowd where it falls away from the eye.
    u = (
        (x * 0.96 + y * 0.28 + 0.35 * height + 0.004 * fractal_noise(x * 6, y * 6, 2, 3))
        * THREADS
        / 2
    )
    v = (
        (y * 0.96 - x * 0.28 + 0.50 * height + 0.004 * fractal_noise(x * 6, y * 6, 6, 3))
        * THREADS
        / 2
    )
    warp, weft = np.floor(u).astype(int), np.floor(v).astype(int)
    over = (warp + weft) % 4 < 2  # twill: two over, two under, one step per row
    across = np.where(over, u - warp, v - weft) - 0.5  # place across the visible thread
    along = np.where(over, v, u)
    thread = np.where(over, warp, weft + 5000)

    order = [name for count, name in SETT for _ in range(count)]
    order = order + order[::-1]
    table = np.array([COLOURS[name] for name in order])
    colour = table[np.where(over, warp, weft) % len(order)]
    tone = np.random.default_rng(4).uniform(0.8, 1.2, 10007)[thread % 10007]

    twist = np.sin(2 * np.pi * (along * 1.9 + across * 1.3 + tone * 9))
    fuzz = fractal_noise(x * size / 5, y * size / 5, 15, 2)
    # Where a thread dives under its neighbours it turns away from the light.
    float_at = ((np.where(over, weft + warp, weft + warp + 2) % 4) + (along % 1)) / 2
    arch = np.sin(np.pi * np.clip(float_at, 0, 1))
    round_off = np.sqrt(np.clip(1 - (across * 1.9) ** 2, 0, 1))
    shade = (0.18 + 0.82 * round_off) * (0.45 + 0.55 * arch) * (1 + 0.16 * twist + 0.30 * fuzz)

    normal_z = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    facing = np.clip((-0.62 * slope_x + 0.52 * slope_y + 0.72) * normal_z, 0, None)
    hollow = smoothstep(-0.55, 0.25, height)
    sheen = (1 - normal_z) ** 2 * 0.10 * facing
    light = (0.22 + 1.9 * facing**1.2) * (0.45 + 0.55 * hollow)
    nap = 0.015 * (1 + fuzz) * facing
    return colour * (tone * shade * light)[..., None] + (sheen + nap)[..., None] * (1.0, 0.93, 0.85)


def folds(x: Field, y: Field) -> tuple[Field, Field, Field]:
    """Return the height of the cloth and its slopes."""
    bend = fractal_noise(x * 0.7, y * 0.7, 41, 2)
    height = 0.17 * np.sin(3.1 * (x * 0.8 - y * 0.6) + 3.4 * bend)
    height += 0.15 * fractal_noise(x * 1.1, y * 1.1 + 5, 23, 3)
    slope_y, slope_x = np.gradient(height, y[:, 0], x[0])
    return height, slope_x, slope_y
