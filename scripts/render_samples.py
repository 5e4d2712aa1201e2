"""Render the sample pictures of `examples/pictures`: each scene clean and in two degraded steps.

    python scripts/render_samples.py --out examples/pictures [--scene NAME]

Scenes are drawn at twice the size and averaged in linear light. All are saved as
JPEG without chroma subsampling, to keep the repository small; degraded ones are made from the
8-bit picture before that, by one distortion each, and named after it.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sample_scenes import flower, harbour, lake, spheres, weave

SIZE = 512
SUPERSAMPLE = 2
CLEAN_QUALITY = 93
DEGRADED_QUALITY = 78
Picture = Image.Image


def develop(light: NDArray[np.float64]) -> Picture:
    """Turn linear light of shape (SUPERSAMPLE * H, SUPERSAMPLE * W, 3) into an sRGB picture."""
    height, width, _ = light.shape
    n = SUPERSAMPLE
    # Highlights roll off before averaging, so that a bright point does not spoil its whole edge.
    rolled = light * (1 + light / 9) / (1 + light)
    mean = (rolled * 1.55).clip(0, 1).reshape(height // n, n, width // n, n, 3).mean(axis=(1, 3))
    srgb = np.where(mean <= 0.0031308, 12.92 * mean, 1.055 * mean ** (1 / 2.4) - 0.055)
    return Image.fromarray(np.rint(srgb * 255).astype(np.uint8))


def blur(picture: Picture, radius: float) -> Picture:
    """Gaussian blur; radius is the standard deviation in pixels."""
    return picture.filter(ImageFilter.GaussianBlur(radius))


def noise(picture: Picture, deviation: float) -> Picture:
    """Gaussian noise of the given standard deviation in 8-bit steps."""
    values = np.asarray(picture, dtype=np.float64)
    values = values + np.random.default_rng(0).normal(0, deviation, values.shape)
    return Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8))


def recompress(picture: Picture, quality: float) -> Picture:
    """JPEG at low quality: 8 x 8 blocks and smeared colour."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(quality))
    return Image.open(buffer).convert("RGB")


def upscale(picture: Picture, factor: float) -> Picture:
    """Shrink by `factor` and enlarge again, as a small original blown up."""
    small = picture.resize((round(SIZE / factor),) * 2, Image.Resampling.BOX)
    return small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def posterise(picture: Picture, levels: float) -> Picture:
    """Keep `levels` values per channel: flat patches with false edges."""
    steps = levels - 1
    values = np.rint(np.asarray(picture) / 255 * steps) / steps
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


Scene = Callable[[int], NDArray[np.float64]]
Distortion = Callable[[Picture, float], Picture]
# scene, its distortion, and the strength of the light and of the heavy step
SCENES: dict[str, tuple[Scene, Distortion, float, float]] = {
    "flower": (flower.render, upscale, 2.5, 7),
    "harbour": (harbour.render, blur, 1.6, 5),
    "lake": (lake.render, noise, 14, 42),
    "spheres": (spheres.render, recompress, 18, 4),
    "weave": (weave.render, posterise, 7, 3),
}


def render(name: str) -> dict[str, tuple[Picture, int]]:
    """Return file name -> (picture, JPEG quality) for one scene."""
    scene, distort, light, heavy = SCENES[name]
    clean = develop(scene(SIZE * SUPERSAMPLE))
    how = distort.__name__
    return {
        f"{name}_0-clean.jpg": (clean, CLEAN_QUALITY),
        f"{name}_1-{how}.jpg": (distort(clean, light), DEGRADED_QUALITY),
        f"{name}_2-heavy-{how}.jpg": (distort(clean, heavy), DEGRADED_QUALITY),
    }


def encode(picture: Picture, quality: int) -> bytes:
    """Return the JPEG file of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the sample pictures.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--scene", choices=SCENES, help="render this scene only")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in [arguments.scene] if arguments.scene else SCENES:
        for file, (picture, quality) in render(name).items():
            (arguments.out / file).write_bytes(encode(picture, quality))
            print(arguments.out / file)


if __name__ == "__main__":
    main()
