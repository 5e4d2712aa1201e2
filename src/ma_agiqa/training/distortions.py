"""Synthetic distortions of an image, each with a severity.

A distorted copy of a picture is worse than the picture, whatever people would score either:
that is supervision without labels, and it teaches what AGIQA-3K hardly shows (noise, blocking,
banding, over-sharpening). The distortions follow the usual list of image-quality databases
(KADID-10k); strengths run from barely to plainly visible. The codecs are Pillow's own.

All chance comes from the generator given, so a copy repeats from its seed, and two severities
drawn with one seed have the same noise.

Shapes: an image is float32 (3, H, W) in [0, 1]; a severity lies in (0, 1].
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Distortion = Callable[[Tensor, float, np.random.Generator], Tensor]


def blur(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    """Gaussian blur, standard deviation up to 4 pixels."""
    return _gaussian(image, 0.4 + 3.6 * severity)


def motion(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    """Blur along a line of up to 25 pixels."""
    length, angle = 2 + 23 * severity, rng.uniform(0, math.pi)
    reach = math.ceil(length / 2)
    offsets = np.linspace(-length / 2, length / 2, 4 * reach + 1)
    steps = np.stack([(f(angle) * offsets).round().astype(int) for f in (math.sin, math.cos)], 1)
    places, counts = np.unique(steps + reach, axis=0, return_counts=True)
    padded = F.pad(image[None], (reach,) * 4, mode="replicate")[0]
    height, width = image.shape[1:]
    total = torch.zeros_like(image)
    # A line has few places: a convolution with its square would take thirty times as long.
    for (top, left), count in zip(places.tolist(), counts.tolist(), strict=True):
        total.add_(padded[:, top : top + height, left : left + width], alpha=count / len(offsets))
    return total


def noise(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    """White Gaussian noise in every channel, standard deviation up to 0.2."""
    return image + _normal(image.shape, rng) * (0.01 + 0.19 * severity)


def grain(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    """Noise common to the channels and correlated over two pixels, as of film and upscaling."""
    coarse = F.avg_pool2d(_normal((1, *image.shape[1:]), rng)[None], 3, 1, 1)[0] * 2.0
    return image + coarse * (0.01 + 0.14 * severity)


def impulse(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    """Set up to a tenth of the pixels to black or white."""
    drawn = torch.from_numpy(rng.random(image.shape[1:], dtype=np.float32))
    share = 0.002 + 0.098 * severity
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn > 1 - share / 2, 1.0, image))


def rescale(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    """Reduce up to six times, then enlarge with bicubic interpolation."""
    height, width = image.shape[1:]
    ratio = 1.2 + 4.8 * severity
    size = (max(8, round(height / ratio)), max(8, round(width / ratio)))
    small = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)
    return F.interpolate(small, size=(height, width), mode="bicubic", align_corners=False)[0]


def enlarge(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    """Enlarge up to three times, and cut out the middle at the size there was."""
    height, width = image.shape[1:]
    size = [math.ceil(side * (1.1 + 1.9 * severity)) for side in (height, width)]
    large = F.interpolate(image[None], size=size, mode="bicubic", align_corners=False)[0]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return large[:, top : top + height, left : left + width]


def banding(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    """Reduce to few levels per channel: 24 down to 4."""
    levels = 24 * (4 / 24) ** severity
    banded: Tensor = (image * levels).round() / levels
    return banded


def sharpen(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    """Over-sharpen by an unsharp mask until halos show."""
    return image + (image - _gaussian(image, 1.12)) * (0.8 + 4.2 * severity)


def fade(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    """Lose contrast and shift in brightness."""
    return 0.5 + (image - 0.5) * (0.85 - 0.5 * severity) + 0.1 * severity


def jpeg(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    """JPEG with colours at half size, quality 60 down to 5: blocking."""
    return _coded(image, "JPEG", quality=round(60 * (5 / 60) ** severity))


def jpeg2000(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    """JPEG 2000 at a peak signal-to-noise ratio of 38 down to 24 decibels: ringing and blur."""
    layers = [38 - 14 * severity]
    return _coded(image, "JPEG2000", quality_mode="dB", quality_layers=layers, irreversible=True)


DISTORTIONS: dict[str, Distortion] = {
    "banding": banding,
    "blur": blur,
    "enlarge": enlarge,
    "fade": fade,
    "grain": grain,
    "impulse": impulse,
    "jpeg": jpeg,
    "jpeg2000": jpeg2000,
    "motion": motion,
    "noise": noise,
    "rescale": rescale,
    "sharpen": sharpen,
}


def distort(image: Tensor, kind: str, severity: float, *, seed: int) -> Tensor:
    """Return a distorted copy of an image, in [0, 1]."""
    return DISTORTIONS[kind](image, severity, np.random.default_rng(seed)).clamp(0.0, 1.0)


def _gaussian(image: Tensor, sigma: float) -> Tensor:
    reach = min(math.ceil(3 * sigma), min(image.shape[1:]) - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(image[:, None], (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]


def _normal(shape: tuple[int, ...] | torch.Size, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


def _coded(image: Tensor, codec: str, **options: object) -> Tensor:
    """Return an image as it comes back from one of Pillow's codecs."""
    pixels = (image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, codec, **options)
    file.seek(0)
    decoded = np.asarray(Image.open(file).convert("RGB"))
    return torch.from_numpy(decoded.copy()).permute(2, 0, 1).float() / 255.0
