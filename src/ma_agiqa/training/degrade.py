"""Synthetic degradations of a batch, on the device, each with a severity.

A degraded copy of a picture is worse than the picture, whatever people would score either:
that is supervision without labels, and it teaches what AGIQA-3K hardly shows (noise, blocking,
banding, over-sharpening). The degradations follow the usual list of image-quality databases
(KADID-10k); strengths run from barely to plainly visible.

What this file does not do: model a codec exactly. Blocking comes from quantised 8x8 cosine
transforms with the JPEG tables (ITU-T T.81, annex K), without chroma subsampling.

Shapes: B images, S side. Images are float in [0, 1], severity is (B,) in (0, 1].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

EDITION = 2
"""Grows whenever a degradation changes: descriptions of copies are kept under it."""


def degraded_copies(images: Tensor, *, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return a degraded copy of each image (B, 3, H, W) and its severity, (B,) in [0.1, 1].

    Kind and severity are drawn for each image; noise comes from torch's generator.
    """
    kinds = rng.choice(sorted(KINDS), len(images))
    severity = torch.from_numpy(rng.uniform(0.1, 1.0, len(images))).to(images)
    copies = [KINDS[k](images[i : i + 1], severity[i : i + 1]) for i, k in enumerate(kinds)]
    if not copies:
        return images, severity
    return torch.cat(copies).clamp(0.0, 1.0), severity


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


def blocking(images: Tensor, severity: Tensor) -> Tensor:
    """JPEG-like quantisation, quality about 50 down to 5."""
    quality = 50 * (5 / 50) ** severity
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)[:, None, None, None, None]
    to_ycc, luma, chroma, cosine = _jpeg_tables(images.device)
    ycc = torch.einsum("ij,bjhw->bihw", to_ycc, images * 255 - 128)
    height, width = ycc.shape[2] // 8 * 8, ycc.shape[3] // 8 * 8
    blocks = ycc[:, :, :height, :width].unfold(2, 8, 8).unfold(3, 8, 8)
    spectrum = torch.einsum("ui,bchwij,vj->bchwuv", cosine, blocks, cosine)
    table = torch.stack([luma, chroma, chroma])[None, :, None, None] * scale[..., None]
    spectrum = (spectrum / table).round() * table
    blocks = torch.einsum("ui,bchwuv,vj->bchwij", cosine, spectrum, cosine)
    out = ycc.clone()
    out[:, :, :height, :width] = blocks.permute(0, 1, 2, 4, 3, 5).reshape(
        *ycc.shape[:2], height, width
    )
    return (torch.einsum("ij,bjhw->bihw", to_ycc.inverse(), out) + 128) / 255


@functools.lru_cache(maxsize=4)
def _jpeg_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """RGB -> YCbCr without offset, the two quantisation tables, the cosine transform."""
    to_ycc = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    luma = (
        "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 "
        "14 17 22 29 51 87 80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 "
        "49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
    )
    chroma = np.full((8, 8), 99.0)
    chroma[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
    u, i = np.mgrid[0:8, 0:8]
    cosine = np.cos((2 * i + 1) * u * math.pi / 16) * np.where(u == 0, math.sqrt(1 / 8), 0.5)
    tables = (to_ycc, np.array(luma.split(), dtype=float).reshape(8, 8), chroma, cosine)
    first, second, third, fourth = (
        torch.tensor(np.asarray(t), dtype=torch.float32, device=device) for t in tables
    )
    return first, second, third, fourth


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "banding": banding,
    "blocking": blocking,
    "blur": blur,
    "enlarge": enlarge,
    "fade": fade,
    "grain": grain,
    "noise": noise,
    "rescale": rescale,
    "sharpen": sharpen,
}
