"""Mountains over a lake at sunset: fractal terrain with a forest, clouds, and a reflection.

Terrain is drawn column by column: heights are taken along the ground under each column of the
picture, and a pixel shows the first of them that rises above its line of sight.

Shapes: Z steps away from the eye, X columns.
"""

from __future__ import annotations

import numpy as np

from sample_scenes.fields import Field, fractal_noise, gradient_noise, mix, screen, smoothstep

EYE = 0.55  # height above the water
VIEW = 0.62  # half the width of the view at distance 1
HORIZON = -0.12  # where the horizon lies, on the screen's -1 to 1
STEPS = 1500
SUN = (-0.34, 0.10)  # on the screen
TOWARDS_SUN = np.array([-0.72, 0.34, 0.30])


def render(size: int) -> Field:
    x, y = screen(size)
    z = np.geomspace(1.6, 60, STEPS)[:, None]
    side = x[:1] * VIEW * z
    ground, trees = terrain(side, np.broadcast_to(z, side.shape))
    height = np.maximum(ground + trees, 0)
    seen = np.maximum.accumulate(HORIZON + (height - EYE) / (z * VIEW), axis=0)

    first = np.stack([np.searchsorted(seen[:, i], y[:, i]) for i in range(size)], axis=1)
    column = np.broadcast_to(np.arange(size), first.shape)
    step = np.minimum(first, STEPS - 1)
    sky_here = first >= STEPS
    rock = land_light(ground, trees, side, z, x[:1])
    light = np.where(sky_here[..., None], sky(x, y), rock[step, column])
    water = ~sky_here & (height[step, column] <= 0)
    return 0.62 * np.where(water[..., None], reflection(light, water, x, y), light) ** 1.2


def terrain(x: Field, z: Field) -> tuple[Field, Field]:
    """Return the height of the ground and of what grows on it, both shape (Z, X)."""
    shore = 9.5 + 2.2 * fractal_noise(x * 0.25, z * 0.1, 3, 4)
    inland = np.clip(z - shore, 0, None)
    crest = fractal_noise(x * 0.062 + 2.2, z * 0.062, 61, 9, ridged=True)
    hills = fractal_noise(x * 0.3, z * 0.3, 17, 6)
    valley = 0.45 + 0.55 * smoothstep(0.0, 9.0, np.abs(x - 0.14 * z))
    ground = 0.12 * np.minimum(inland, 2) + 0.05 * inland * hills - 0.05
    ground += np.clip(crest + 0.05, 0, None) ** 1.5 * valley * 0.36 * np.clip(inland, 0, 30)
    spit = smoothstep(0.1, 1.3, x * 0.9 - 0.9 + 0.5 * fractal_noise(x, z * 0.6, 9, 4))
    ground += spit * smoothstep(7.5, 6.0, z) * smoothstep(3.0, 4.3, z) * 0.5
    ground = np.where(inland > 0, ground, np.where(spit > 0.02, ground, -0.1))

    cell = 0.16
    i, j = np.floor(x / cell), np.floor(z / cell)
    centre_x = (i + 0.5 + 0.5 * np.sin(i * 127.1 + j * 311.7)) * cell
    centre_z = (j + 0.5 + 0.3 * np.sin(i * 269.5 + j * 183.3)) * cell
    tall = 0.22 + 0.13 * np.sin(i * 53.1 + j * 97.3)
    away = np.hypot(x - centre_x, z - centre_z) / (cell * 0.46)
    ragged = 0.16 * gradient_noise(x * 60, z * 60, 77)
    wood = smoothstep(0.0, 0.06, ground) * smoothstep(1.5, 0.7, ground + 0.4 * hills)
    wood *= np.sin(i * 12.9 + j * 78.2) > -0.75
    return ground, np.clip(1 - away + ragged, 0, 1) * tall * wood


def land_light(ground: Field, trees: Field, x: Field, z: Field, at: Field) -> Field:
    """Return the light from each place of the ground, shape (Z, X, 3)."""
    surface = ground + trees
    slope_x = np.gradient(surface, axis=1) / np.gradient(x, axis=1)
    slope_z = np.gradient(surface, axis=0) / np.gradient(z, axis=0) - slope_x * at * VIEW
    normal = np.stack([-slope_x, np.ones_like(slope_x), -slope_z], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    lit = np.clip(normal @ (TOWARDS_SUN / np.linalg.norm(TOWARDS_SUN)), 0, 1)

    grain = fractal_noise(x * 5, z * 5 + ground * 9, 29, 5)
    steep = smoothstep(0.82, 0.55, normal[..., 1])
    meadow = mix((0.09, 0.10, 0.03), (0.22, 0.17, 0.06), smoothstep(-0.3, 0.4, grain))
    stone = mix((0.16, 0.12, 0.10), (0.34, 0.27, 0.22), smoothstep(-0.4, 0.4, grain))
    colour = mix(meadow, stone, np.maximum(steep, smoothstep(0.9, 1.7, ground + 0.5 * grain)))
    snow = smoothstep(2.0, 2.8, ground + 0.9 * grain) * smoothstep(0.35, 0.6, normal[..., 1])
    colour = mix(colour, (0.85, 0.85, 0.9), snow)
    pine = mix((0.012, 0.03, 0.012), (0.06, 0.09, 0.025), np.clip(trees / 0.35, 0, 1))
    colour = mix(colour, pine, smoothstep(0.0, 0.02, trees))

    light = colour * (lit[..., None] * (4.2, 2.1, 0.85) + (0.22, 0.27, 0.42))
    air = 1 - np.exp(-((z / 62) ** 1.5))
    return mix(light, (0.86, 0.48, 0.34), np.broadcast_to(air, lit.shape))


def sky(x: Field, y: Field) -> Field:
    up = np.clip((y - HORIZON) / (1 - HORIZON), 0, 1)
    light = mix((1.25, 0.56, 0.22), (0.62, 0.36, 0.38), smoothstep(0, 0.35, up))
    light = mix(light, (0.09, 0.15, 0.34), smoothstep(0.2, 1.0, up))
    away = np.hypot(x - SUN[0], y - SUN[1])
    light = light + (np.exp(-away * 3.2) * 1.1)[..., None] * (1.0, 0.55, 0.2)
    light = light + smoothstep(0.055, 0.045, away)[..., None] * (9.0, 6.0, 3.0)

    far = 1 / (up + 0.12)  # clouds lie in a plane overhead
    u, v = x * far * 1.1, far * 2.6
    bend = fractal_noise(u * 0.7, v * 0.7, 5, 4)
    thick = fractal_noise(u + bend, v + 0.6 * bend, 52, 8)
    below = fractal_noise(u + bend + 0.12 * (x - SUN[0]), v + 0.6 * bend + 0.16, 52, 8)
    cover = smoothstep(-0.02, 0.42, thick) * smoothstep(0.02, 0.15, up)
    edge = np.clip(0.5 + 1.6 * (thick - below), 0, 1)
    warm = np.exp(-away * 1.1)
    shade = mix((0.16, 0.13, 0.20), (0.40, 0.22, 0.22), warm)
    glow = mix((0.95, 0.45, 0.32), (2.4, 1.25, 0.5), warm)
    return mix(light, mix(shade, glow, edge * (1.15 - 0.75 * cover)), cover * 0.92)


def reflection(light: Field, water: Field, x: Field, y: Field) -> Field:
    """Mirror the upper picture about the far shore, moved by ripples that grow nearer."""
    size = len(light)
    shore = HORIZON - EYE / (11 * VIEW)
    depth = np.clip(shore - y, 1e-3, None)
    z = EYE / (VIEW * np.clip(HORIZON - y, 0.02, None))
    ripple = fractal_noise(x * z * 6, z * 26, 88, 4) * smoothstep(0, 0.5, depth)
    breeze = smoothstep(-0.1, 0.4, fractal_noise(x * z * 0.8, z * 2.2, 33, 3))
    ripple *= 0.35 + 0.65 * breeze
    column = np.clip((x + 0.03 * ripple + 1) * size / 2, 0, size - 1).astype(int)
    mirrored = 2 * shore - y + 0.30 * ripple * (0.2 + depth)
    row = np.clip((1 - np.maximum(mirrored, shore + 0.01)) * size / 2, 0, size - 1).astype(int)
    image = np.where(water[row, column][..., None], sky(x, mirrored), light[row, column])
    clear = 0.90 - 0.45 * smoothstep(0.0, 1.0, depth)
    return image * clear[..., None] + (1 - clear)[..., None] * (0.02, 0.035, 0.05)
