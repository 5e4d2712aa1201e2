"""Learn the visual words of `compact` from rendered shapes: no picture of anyone is read.

    python scripts/learn_words.py --out src/ma_agiqa/assets/words.safetensors

The pictures are dead leaves (Lee, Mumford and Huang, IJCV 2001): shapes of all sizes, each with
its colour, its shading and a texture of noise, lie on one another until the picture is full. They
have the edges, corners and textures of pictures, and nothing else. The mixture is fitted by
expectation and maximisation, from clusters. The same seed gives the same words up to rounding.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from safetensors.numpy import save_file
from torch import Tensor

from ma_agiqa.experts.words import LEVELS, WORDS, descriptors, likely

PICTURES, SIDE, LEAVES = 60, 512, 1500
SAMPLES = 800  # descriptors taken of each picture
SMALLEST, LARGEST, FALL = 6, 220, 0.6  # radius in pixels, and how fast large ones grow rare
CLUSTERING, STEPS = 12, 25
LEAST_VARIANCE = 1e-3


def dead_leaves(rng: np.random.Generator) -> Image.Image:
    """Render one picture, SIDE pixels square."""
    picture = np.zeros((SIDE, SIDE, 3))
    free = np.ones((SIDE, SIDE), bool)
    textures = [noise(rng.uniform(0.5, 1.8), rng) for _ in range(4)]
    for _ in range(LEAVES):
        radius = min(SMALLEST / (rng.random() + 1e-3) ** FALL, LARGEST)
        row, column = rng.uniform(-50, SIDE + 50, 2)
        top, bottom = (int(np.clip(row + end, 0, SIDE)) for end in (-radius, radius + 1))
        left, right = (int(np.clip(column + end, 0, SIDE)) for end in (-radius, radius + 1))
        box = np.s_[top:bottom, left:right]
        down, across = np.mgrid[box] - np.array([row, column])[:, None, None]
        shown = leaf(down, across, radius, rng) & free[box]
        strength = math.exp(rng.uniform(math.log(0.5), math.log(40)))
        slope = rng.normal(0, 0.3, 2)
        shade = strength * textures[rng.integers(4)][box] + down * slope[0] + across * slope[1]
        picture[box][shown] = (rng.uniform(0, 255, 3) + shade[..., None])[shown]
        free[box] &= ~shown
    sharp = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    return sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))


def noise(fall: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return noise whose amplitude falls with this power of frequency, of deviation 1."""
    frequency = np.fft.fftfreq(SIDE)
    radius = np.hypot(frequency[:, None], frequency)
    radius[0, 0] = 1
    plane = np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIDE, SIDE))) / radius**fall).real
    return (plane - plane.mean()) / plane.std()


def leaf(
    down: NDArray[np.float64], across: NDArray[np.float64], radius: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return where a disc, an ellipse or a rectangle lies, turned at random."""
    angle, thin = rng.uniform(0, math.pi), rng.uniform(0.05, 1)
    along = down * math.cos(angle) + across * math.sin(angle)
    aside = across * math.cos(angle) - down * math.sin(angle)
    kind = rng.integers(3)
    if kind == 0:
        return down**2 + across**2 < radius**2
    if kind == 1:
        return along**2 + (aside / thin) ** 2 < radius**2
    return (abs(along) < 0.7 * radius) & (abs(aside) < 0.7 * thin * radius)


def mixture(x_NZ: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
    """Fit Gaussians with variances along the axes."""
    first = rng.choice(len(x_NZ), WORDS, replace=False)
    mean = x_NZ[torch.from_numpy(first)]
    for _ in range(CLUSTERING):
        nearest = torch.cdist(x_NZ, mean).argmin(1)
        mean = torch.stack([x_NZ[nearest == k].mean(0) for k in range(WORDS)])
    belongs = torch.nn.functional.one_hot(torch.cdist(x_NZ, mean).argmin(1), WORDS).float()
    for _ in range(STEPS):
        count = belongs.sum(0)
        mean = belongs.T @ x_NZ / count[:, None]
        variance = belongs.T @ x_NZ.square() / count[:, None] - mean.square()
        words = {"mean": mean, "variance": variance.clamp_min(LEAST_VARIANCE)}
        words["share"] = count / count.sum()
        belongs = likely(x_NZ, words)
    return words


def main() -> None:
    """Render, describe, fit, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    rng = np.random.default_rng(0)
    taken: dict[int, list[Tensor]] = {level: [] for level, _ in LEVELS}
    for _ in range(PICTURES):
        luma = np.asarray(dead_leaves(rng), np.float32) @ np.array([0.299, 0.587, 0.114], "f")
        for level, step in LEVELS:
            plane = torch.from_numpy(luma)[None, None]
            plane = torch.nn.functional.avg_pool2d(plane, level)[:, 0]
            found = descriptors(plane, step)[0]
            chosen = rng.choice(len(found), SAMPLES, replace=False)
            taken[level].append(found[torch.from_numpy(chosen)])
    stored = {}
    for level, parts in taken.items():
        sample = torch.cat(parts)
        centre = sample.mean(0)
        words = mixture(sample - centre, rng) | {"centre": centre}
        stored |= {f"{name}-{level}": value.numpy().copy() for name, value in words.items()}
        print(f"size 1/{level}: shares {words['share'].min():.3f} to {words['share'].max():.3f}")
    save_file(stored, out)


if __name__ == "__main__":
    main()
