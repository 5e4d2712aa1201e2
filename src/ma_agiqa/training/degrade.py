"""Synthetic degradations of a batch, each with a severity.

A degraded copy of a picture is worse than the picture, whatever people would score either:
that is supervision without labels, and it teaches what AGIQA-3K hardly shows (noise, blocking,
banding, over-sharpening). The degradations follow the usual list of image-quality databases
(KADID-10k); strengths run from barely to plainly visible. The codecs are Pillow's own.

Shapes: B images, S side. Images are float in [0, 1], severity is (B,) in (0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.training.recode import picture_of, recoded, tensor_of

EDITION = 3
"""Grows whenever a degradation changes: descriptions of copies are kept under it."""


def degraded_copy(picture: Tensor, *, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Return a degraded copy of a picture (1, 3, H, W), and its severity within 0.1 and 1.

    Kind and severity are drawn; noise comes from torch's generator.
    """
    kind = rng.choice(sorted(KINDS))
    severity = rng.uniform(0.1, 1.0)
    copy = KINDS[kind](picture, torch.tensor([severity]).to(picture))
    return copy.clamp(0.0, 1.0), severity


def blur(images: Tensor, severity: Tensor) -> Tensor:
    """Gaussian blur, sigma up to 4 pixels."""
    sigma = 0.4 + 3.6 * severity
    reach = 9
    offset = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = images.flatten(0, 1)[None]
    flat = F.pad(flat, (reach, reach, reach, reach), mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel))
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
    return flat[0].unflatten(0, images.shape[:2])


def noise(images: Tensor, severity: Tensor) -> Tensor:
    """White Gaussian noise in every channel, standard deviation up to 0.2."""
    return images + torch.randn_like(images) * (0.01 + 0.19 * severity)[:, None, None, None]


def grain(images: Tensor, severity: Tensor) -> Tensor:
    """Noise common to the channels and correlated over two pixels, as of film and upscaling."""
    coarse = F.avg_pool2d(torch.randn_like(images[:, :1]), 3, 1, 1) * 2.0
    return images + coarse * (0.01 + 0.14 * severity)[:, None, None, None]


def rescale(images: Tensor, severity: Tensor) -> Tensor:
    """Reduce up to six times, then enlarge with bicubic interpolation."""
    out = []
    for image, strength in zip(images, severity.tolist(), strict=True):
        side = max(8, round(image.shape[-1] / (1.2 + 4.8 * strength)))
        small = F.interpolate(image[None], size=(side, side), mode="bilinear", antialias=True)
        out.append(F.interpolate(small, size=image.shape[1:], mode="bicubic", align_corners=False))
    return torch.cat(out)


def enlarge(images: Tensor, severity: Tensor) -> Tensor:
    """Enlarge up to three times, and cut out the middle at the size there was."""
    height, width = images.shape[2:]
    out = []
    for image, strength in zip(images, severity.tolist(), strict=True):
        size = [math.ceil(side * (1.1 + 1.9 * strength)) for side in (height, width)]
        large = F.interpolate(image[None], size=size, mode="bicubic", align_corners=False)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        out.append(large[:, :, top : top + height, left : left + width])
    return torch.cat(out)


def banding(images: Tensor, severity: Tensor) -> Tensor:
    """Reduce to few levels per channel: 24 down to 4."""
    levels = (24 * (4 / 24) ** severity)[:, None, None, None]
    return (images * levels).round() / levels


def sharpen(images: Tensor, severity: Tensor) -> Tensor:
    """Over-sharpen by an unsharp mask until halos show."""
    soft = blur(images, torch.full_like(severity, 0.2))
    return images + (images - soft) * (0.8 + 4.2 * severity)[:, None, None, None]


def fade(images: Tensor, severity: Tensor) -> Tensor:
    """Lose contrast and shift in brightness."""
    kept = (0.85 - 0.5 * severity)[:, None, None, None]
    return 0.5 + (images - 0.5) * kept + 0.1 * severity[:, None, None, None]


def jpeg(images: Tensor, severity: Tensor) -> Tensor:
    """JPEG with colours at half size, quality 60 down to 5: blocking."""
    return _coded(images, severity, "JPEG", lambda s: {"quality": round(60 * (5 / 60) ** s)})


def jpeg2000(images: Tensor, severity: Tensor) -> Tensor:
    """JPEG 2000 at a peak signal-to-noise ratio of 38 down to 24 decibels: ringing and blur."""

    def options(strength: float) -> dict[str, object]:
        layers = [38 - 14 * strength]
        return {"quality_mode": "dB", "quality_layers": layers, "irreversible": True}

    return _coded(images, severity, "JPEG2000", options)


def _coded(
    images: Tensor, severity: Tensor, codec: str, options: Callable[[float], dict[str, object]]
) -> Tensor:
    """Return images as they come back from a codec at the options of each severity."""
    out = []
    for image, strength in zip(images, severity.tolist(), strict=True):
        picture = picture_of((image * 255).round().clamp(0, 255).byte())
        out.append(tensor_of(recoded(picture, codec, **options(strength))).to(images))
    return torch.stack(out)


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "banding": banding,
    "blur": blur,
    "enlarge": enlarge,
    "fade": fade,
    "grain": grain,
    "jpeg": jpeg,
    "jpeg2000": jpeg2000,
    "noise": noise,
    "rescale": rescale,
    "sharpen": sharpen,
}
