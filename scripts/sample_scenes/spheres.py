"""Ray-traced spheres on a marble checker floor, with reflections and soft shadows."""

from __future__ import annotations

import numpy as np

from sample_scenes.fields import Field, fractal_noise, mix, smoothstep

SUN = np.array([0.55, 0.62, 0.38]) / np.linalg.norm([0.55, 0.62, 0.38])
EYE = np.array([0.0, 1.35, -4.6])
BOUNCES = 4
# centre x, y, z, radius, share reflected head-on, surface
SPHERES = (
    (-0.15, 1.0, 0.9, 1.0, 0.75, "steel"),
    (-1.55, 0.55, -0.45, 0.55, 0.04, "planet"),
    (1.35, 0.62, -0.25, 0.62, 0.05, "wood"),
    (0.35, 0.34, -1.05, 0.34, 0.08, "glaze"),
    (-0.55, 0.22, -1.55, 0.22, 0.65, "gold"),
    (1.15, 0.2, -1.65, 0.2, 0.06, "stripes"),
    (2.6, 0.9, 2.6, 0.9, 0.06, "glaze"),
    (-2.9, 0.8, 2.4, 0.8, 0.05, "stripes"),
)


def render(size: int) -> Field:
    at = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(at, -at)
    ray = np.stack([x * 0.56, y * 0.56 - 0.12, np.ones_like(x)], axis=-1).reshape(-1, 3)
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    light = trace(np.broadcast_to(EYE, ray.shape), ray, BOUNCES).reshape(size, size, 3)
    return 0.72 * light**1.15


def trace(start: Field, ray: Field, bounces: int) -> Field:
    """Return the light arriving along each ray, shape (rays, 3)."""
    light = sky(ray)
    distance = np.full(len(ray), np.inf)
    hit = np.full(len(ray), -1)
    down = ray[:, 1] < -1e-6
    distance[down] = -start[down, 1] / ray[down, 1]
    hit[down] = len(SPHERES)
    for index, (cx, cy, cz, radius, *_) in enumerate(SPHERES):
        away = start - (cx, cy, cz)
        b = (away * ray).sum(1)
        inside = b * b - (away * away).sum(1) + radius * radius
        far = np.where(inside > 0, -b - np.sqrt(np.maximum(inside, 0)), np.inf)
        closer = (far > 1e-4) & (far < distance)
        distance[closer], hit[closer] = far[closer], index
    for index in range(len(SPHERES) + 1):
        at = np.flatnonzero(hit == index)
        if len(at):
            point = start[at] + ray[at] * distance[at, None]
            light[at] = surface(index, point, ray[at], distance[at], bounces)
    return light


def surface(index: int, point: Field, ray: Field, distance: Field, bounces: int) -> Field:
    """Shade the points where rays meet one object."""
    if index == len(SPHERES):
        normal = np.broadcast_to((0.0, 1.0, 0.0), point.shape)
        colour, mirror, gloss = floor(point), 0.06, 60.0
    else:
        *centre, radius, mirror, kind = SPHERES[index]
        normal = (point - centre) / radius
        colour, gloss = paint(kind, normal), 180.0
    facing = np.clip(-(normal * ray).sum(1), 0, 1)
    fresnel = mirror + (1 - mirror) * (1 - facing) ** 5
    bounce = ray + 2 * facing[:, None] * normal
    lit, open_sky = sunlight(point, index), ambient(point, normal, index)
    diffuse = np.clip((normal * SUN).sum(1), 0, 1) * lit
    glow = np.clip(0.5 - 0.5 * normal[:, 1], 0, 1)[:, None] * (0.10, 0.085, 0.07)
    light = colour * (
        diffuse[:, None] * (2.5, 2.2, 1.75) + open_sky[:, None] * (0.34, 0.42, 0.55) + glow
    )
    light = light * (1 - fresnel[:, None])
    if bounces:
        tint = np.array((1.0, 0.78, 0.36) if index == 4 else (1.0, 1.0, 1.0))
        reflected = trace(point + normal * 1e-3, bounce, bounces - 1)
        light += reflected * fresnel[:, None] * tint
    light += (np.clip((bounce * SUN).sum(1), 0, 1) ** gloss * lit * fresnel * 6)[:, None]
    return mix(light, sky(ray * (1, 0, 1) + (0, 0.02, 0)), 1 - np.exp(-((distance / 38) ** 2)))


def sunlight(point: Field, own: int) -> Field:
    """Return the share of a round sun that is visible, from how near each ray grazes a sphere."""
    share = np.ones(len(point))
    for index, (cx, cy, cz, radius, *_) in enumerate(SPHERES):
        if index == own:
            continue
        away = point - (cx, cy, cz)
        along = -(away @ SUN)
        gap = np.sqrt(np.maximum((away * away).sum(1) - along**2, 0)) - radius
        blur = 0.07 * np.maximum(along, 1e-3)
        visible = smoothstep(-1, 1, gap / blur)
        share *= np.where(along > 0, visible, 1)
    return share


def ambient(point: Field, normal: Field, own: int) -> Field:
    """Return the share of the sky that is visible, from the solid angle of each sphere."""
    share = 0.5 + 0.5 * normal[:, 1]
    for index, (cx, cy, cz, radius, *_) in enumerate(SPHERES):
        if index != own:
            towards = (cx, cy, cz) - point
            d = np.linalg.norm(towards, axis=1)
            share *= 1 - np.clip((normal * towards).sum(1) / d, 0, 1) * (radius / d) ** 2
    return share


def floor(point: Field) -> Field:
    x, z = point[:, 0], point[:, 2]
    tile = (np.floor(x * 1.3) + np.floor(z * 1.3)) % 2
    vein = 1 - np.abs(fractal_noise(x * 1.7 + 9 * tile, z * 1.7, 5, 6)) * 3.2
    vein = np.clip(vein, 0, 1) ** 3
    grain = fractal_noise(x * 9, z * 9, 31, 4) * 0.08
    light = mix((0.68, 0.64, 0.57), (0.36, 0.30, 0.25), vein * 0.75)
    dark = mix((0.055, 0.075, 0.085), (0.40, 0.42, 0.40), vein * 0.6)
    u, w = np.abs((x * 1.3) % 1 - 0.5), np.abs((z * 1.3) % 1 - 0.5)
    joint = smoothstep(0.49, 0.496, np.maximum(u, w))
    return mix(mix(dark, light, tile) * (1 + grain[:, None]), (0.11, 0.10, 0.09), joint * 0.8)


def paint(kind: str, n: Field) -> Field:
    """Return the colour of a sphere where its normal is `n`."""
    x, y, z = n.T
    if kind == "planet":
        height = fractal_noise(x * 2.2 + z * 0.9, y * 2.6 - z * 1.3, 71, 7)
        land = mix((0.12, 0.30, 0.07), (0.48, 0.36, 0.20), smoothstep(0.05, 0.35, height))
        sea = mix((0.01, 0.05, 0.17), (0.03, 0.25, 0.35), smoothstep(-0.25, 0.0, height))
        ball = mix(sea, land, smoothstep(-0.01, 0.02, height))
        cloud = fractal_noise(x * 3 + z, y * 5 - z, 93, 6)
        return mix(ball, (0.85, 0.87, 0.9), smoothstep(0.05, 0.4, cloud) * 0.85)
    if kind == "wood":
        wobble = fractal_noise(x * 1.6, y * 1.1 + z, 12, 4)
        ring = np.sqrt((x + 0.4) ** 2 + (z - 0.3) ** 2) * 9 + wobble * 2.4
        late = (ring % 1) ** 2.5
        fibre = fractal_noise(x * 34 + z * 30, y * 3, 44, 3)
        return mix((0.50, 0.26, 0.10), (0.20, 0.075, 0.025), late) * (1 + 0.35 * fibre[:, None])
    if kind == "glaze":
        spots = fractal_noise(x * 12 + z * 7, y * 12 - z * 5, 8, 4)
        return mix((0.50, 0.035, 0.03), (0.16, 0.01, 0.012), smoothstep(-0.2, 0.5, spots) * 0.7)
    if kind == "stripes":
        band = smoothstep(-0.12, 0.12, np.sin(9 * y + 2.2 * x))
        speck = fractal_noise(x * 22, y * 22 + z * 9, 3, 3)
        return mix((0.02, 0.20, 0.23), (0.78, 0.70, 0.52), band) * (1 + 0.2 * speck[:, None])
    return np.broadcast_to({"steel": 0.04, "gold": 0.06}[kind] * np.ones(3), n.shape)


def sky(ray: Field) -> Field:
    up = np.clip(ray[:, 1], 0, 1)
    light = mix((0.95, 0.80, 0.66), (0.10, 0.24, 0.55), smoothstep(-0.05, 0.55, up))
    x, z = ray[:, 0] / (up + 0.12), ray[:, 2] / (up + 0.12)
    cloud = smoothstep(0.0, 0.45, fractal_noise(x * 0.8, z * 0.8 + 3, 21, 6)) * smoothstep(
        0, 0.2, up
    )
    light = mix(light, (1.15, 1.08, 1.02), cloud * 0.85)
    near_sun = np.clip(ray @ SUN, 0, 1)
    return light + (near_sun**1500 * 30 + near_sun**24 * 0.4)[:, None] * (1.0, 0.85, 0.6)
