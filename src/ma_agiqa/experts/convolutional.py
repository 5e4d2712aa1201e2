"""A small convolutional network that scores local neighbourhoods.

Own design of this project. It keeps the paper's patch-weighted head (MANIQA; MA-AGIQA
section 3.2): every place of the image gets a score and a weight, and the image's score is
the weighted mean. Being fully convolutional it takes an image at its own resolution, where
noise, blur and artefacts live; a stretch to 224 pixels would hide them.

Local scores are linear in the features, so the map reads on the scale of human scores but is
not clipped to it (bounding it by a sigmoid was tried and learned far more slowly). A summary
of the whole image (mean and standard deviation of every feature) shifts the local scores:
people judge a place in view of the picture. The weighted mean stays exact.

What it does not do: look at meaning, or compare with a prompt.

Shapes: B images, C channels, H, W pixels, h, w places of the last stage (one per `STRIDE`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ma_agiqa.errors import ImageError
from ma_agiqa.experts.smoothing import box_mean

STRIDE = 16
"""Pixels between two neighbouring places of the quality map, in both directions."""

_FLOOR = 0.02  # contrast (of [0, 1]) below which local normalisation fades out


class LocalQuality(NamedTuple):
    """What the expert sees: `score` is the sum of `quality_map * weight_map`.

    Attributes:
        score: shape (B,), on the model's scale.
        quality_map: local scores, shape (B, h, w), same scale.
        weight_map: non-negative, shape (B, h, w), sums to one per image.
        features: the last stage, shape (B, C, h, w).
    """

    score: Tensor
    quality_map: Tensor
    weight_map: Tensor
    features: Tensor


class ConvolutionalExpert(nn.Module):
    """Score images of any size from local evidence.

    Args:
        widths: channels of the stem and of the four-times, eight-times and sixteen-times
            reduced stages.
        depths: residual blocks of the three stages.
        low, high: nominal ends of the scale; an untrained network scores near its middle.
        drop: dropout rate of whole channels before the heads, training only.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (16, 48, 96, 224),
        depths: Sequence[int] = (1, 2, 3),
        low: float = 0.0,
        high: float = 5.0,
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        if len(widths) != 4 or len(depths) != 3 or min(*widths, *depths) < 1:
            raise ValueError(f"expected 4 widths and 3 depths, all positive: {widths=} {depths=}")
        if not low < high:
            raise ValueError(f"the scale must rise, got {low=} {high=}")
        self.low, self.high, self.width = low, high, widths[-1]
        self.stem = ConvNorm(6, widths[0], kernel=5, stride=2)
        blocks: list[nn.Module] = []
        for before, width, depth in zip(widths, widths[1:], depths, strict=False):
            blocks.append(ResidualBlock(before, width, stride=2))
            blocks.extend(ResidualBlock(width, width, stride=1) for _ in range(depth - 1))
        self.body = nn.Sequential(*blocks)
        self.drop = nn.Dropout2d(drop)
        self.head = PatchWeightedHead(widths[-1])

    def forward(self, images: Tensor) -> LocalQuality:
        """Score images given as (B, 3, H, W) float in [0, 1].

        Raises:
            ImageError: not a batch of colour images, or a side shorter than `STRIDE`.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < STRIDE:
            raise ImageError(
                f"expected a batch of shape (B, 3, H, W) with sides of at least {STRIDE} pixels, "
                f"found {tuple(images.shape)}"
            )
        features = self.drop(self.body(F.relu(self.stem(two_views(images)))))
        local, weight_map = self.head(features)
        quality_map = self.low + (self.high - self.low) * (0.5 + 0.2 * local)
        score = (quality_map * weight_map).sum((1, 2))
        return LocalQuality(score, quality_map, weight_map, features)

    def fold(self) -> ConvolutionalExpert:
        """Fold every batch normalisation into its convolution, in place; for scoring only.

        The scores stay the same up to rounding, in about a tenth less time. The state dict
        changes, so a folded network is not one to save.
        """
        self.eval()
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return self


class ConvNorm(nn.Sequential):
    """Convolution with 'same' padding, then batch normalisation."""

    def __init__(self, before: int, after: int, *, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(after),
        )

    def fold(self) -> None:
        """Move the normalisation's fixed scale and shift into the convolution."""
        convolution, norm = self
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            self[0], self[1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; a stride averages the shortcut first."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(before, after, kernel=3, stride=stride)
        self.second = ConvNorm(after, after, kernel=3)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False),
                ConvNorm(before, after, kernel=1),
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(self.shortcut(x_BCHW) + self.second(F.relu(self.first(x_BCHW))))


class PatchWeightedHead(nn.Module):
    """Give each place a score, in fifths of the scale from its middle, and a share of weight."""

    def __init__(self, width: int, *, hidden: int = 128) -> None:
        super().__init__()
        self.local = nn.Conv2d(width, 2, 1)
        self.whole = nn.Sequential(
            nn.Linear(2 * width, hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, 1)
        )

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B, h, w) and weights (B, h, w) that sum to one per image."""
        local, attention = self.local(x_BCHW).float().unbind(1)
        flat_BCN = x_BCHW.flatten(2).float()
        spread_BC = (flat_BCN.var(2, unbiased=False) + 1e-6).sqrt()
        summary = self.whole(torch.cat([flat_BCN.mean(2), spread_BC], 1))
        weights = torch.sigmoid(attention) + 1e-3
        return local + summary.float()[:, :, None], weights / weights.sum((1, 2), keepdim=True)


def two_views(images: Tensor) -> Tensor:
    """Return the image beside its locally normalised self, shape (B, 6, H, W).

    The first three channels are (x - 0.5) / 0.25. The last three subtract the mean of a box
    around each pixel and divide by the contrast there, as natural-scene statistics do, which
    shows noise, blur and blocking at every brightness.
    """
    mean = box_mean(images)
    contrast = (box_mean(images * images) - mean * mean).clamp_min(0.0).add(1e-8).sqrt()
    return torch.cat([(images - 0.5) * 4.0, (images - mean) / (contrast + _FLOOR) * 0.7], 1)
