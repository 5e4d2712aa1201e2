"""`compact`: the paper's mixture in small, for a laptop without a GPU.

    image, own pixels ------- first blocks of EfficientNet-Lite0 -- at each place of 8 x 8 pixels
                              evidence and a weight; the weighted mean       = distortion evidence
    image, about 384 x 384 -- all of EfficientNet-Lite0 -- mean and deviation of every stage --
                              Linear + ReLU                                  = content evidence
    gate on [content, distortion]: Linear(2 D -> 2) -- weighted sum of the two
                              -- one Linear for each data set that it learned from, blended by how
                              much the content evidence is like that data set = score

Source: the structure is that of MA-AGIQA (arXiv 2404.17762): an expert that sees distortion, one
that sees what the picture shows, and a linear gate. Own design: what the two experts are made of,
and the several readouts: people judge a photograph and a generated picture by different things,
and one readout for both ranks either worse. Distortion is judged at the picture's own resolution,
where noise, blur and artefacts live; content is judged on a reduced copy, so it does not depend
on the picture's size.

What this file does not do: compare with a prompt, or read images (`preprocess`).

Shapes: B images, H, W pixels, h, w places of 8 x 8 pixels, C channels, F statistics, D evidence
width, R readouts, E = 2 experts, content first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ma_agiqa.errors import ImageError, UsageError
from ma_agiqa.models.compact.efficientnet_lite import (
    HEAD_WIDTH,
    STAGES,
    EfficientNetLite,
    load_published,
    normalise,
    published_weights,
)
from ma_agiqa.models.mixture import GatedMixture, SemanticProjection
from ma_agiqa.models.prediction import Prediction, QualityNetwork

MIN_SIDE = 32
"""Pixels: an image with a shorter side than this has too few places to judge."""

_TAPS = (2, 4, 7)  # the last blocks at a stride of 4, 8 and 16 pixels before channels multiply
_STAGES = (0, 2, 4, 7, 10, 14, 15)  # the last blocks of all stages
_STATISTICS_SCALE = 10.0  # of all statistics of an average image, as a vector
_TRUNK = re.compile(r"(distortion|content)\.trunk\.((?P<stem>stem)|blocks\.(?P<block>\d+)|head)\.")
_LEAST_DEVIATION = 1e-3
_LEAST_WEIGHT = 0.02  # of a place before weights are made to sum to one
_BORDER = 3  # places that convolutions fill with zeros from beyond the border


class DistortionExpert(nn.Module):
    """Give every place evidence and a weight.

    Args:
        width: D.
        hidden: channels between the trunk's features and the evidence.
        width_factor, padding: of the trunk.
    """

    def __init__(self, *, width: int, hidden: int, width_factor: float, padding: str) -> None:
        super().__init__()
        self.trunk = EfficientNetLite(
            blocks=_TAPS[-1] + 1, width_factor=width_factor, padding=padding
        )
        channels = sum(self.trunk.widths[tap] for tap in _TAPS)
        self.evidence = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, width, 1)
        )
        self.weight = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Judge normalised images (B, 3, H, W).

        Returns:
            Evidence (B, D, h, w), and weights (B, h, w) that sum to one per image.
        """
        _, (fine, middle, coarse) = self.trunk(images, _TAPS)
        size = middle.shape[2:]
        features = torch.cat(
            [
                F.adaptive_avg_pool2d(fine, size),
                middle,
                F.interpolate(coarse, size=size, mode="bilinear", align_corners=False),
            ],
            dim=1,
        )
        features = without_border(features)
        weights = torch.sigmoid(self.weight(features)[:, 0]) + _LEAST_WEIGHT
        return self.evidence(features), weights / weights.sum((1, 2), keepdim=True)


def without_border(features: Tensor) -> Tensor:
    """Return features (B, C, h, w) with those of the outermost places taken from further in.

    A convolution sees zeros beyond the border, and a network that judges places makes something
    of them: a bright frame around every map. What lies at the border is seen from there anyhow.
    """
    top, left = (min(_BORDER, (side - 1) // 4) for side in features.shape[2:])
    inner = features[:, :, top : features.shape[2] - top, left : features.shape[3] - left]
    return F.pad(inner, (left, left, top, top), mode="replicate")


class ContentExpert(nn.Module):
    """Judge the picture as a whole: normalised images (B, 3, H', W') -> evidence (B, D).

    Means and deviations are standardised by those of training images, and every stage counts
    alike whatever its width.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, *, width: int, drop: float, width_factor: float) -> None:
        super().__init__()
        self.trunk = EfficientNetLite(width_factor=width_factor)
        widths = [*(self.trunk.widths[stage] for stage in _STAGES), HEAD_WIDTH]
        shares = [torch.full((2 * width,), (2 * width * len(widths)) ** -0.5) for width in widths]
        self.register_buffer("mean", torch.zeros(2 * sum(widths)))
        self.register_buffer("scale", _STATISTICS_SCALE * torch.cat(shares))
        self.drop = nn.Dropout(drop)
        self.project = SemanticProjection(features=2 * sum(widths), width=width, dropout=drop)

    def calibrate(self, images: Iterable[Tensor]) -> None:
        """Take mean and deviation of each statistic from some images."""
        statistics = torch.cat([self.statistics(normalise(image[None])) for image in images])
        self.mean.copy_(statistics.mean(0))
        self.scale.div_(statistics.std(0) + _LEAST_DEVIATION)

    def statistics(self, images: Tensor) -> Tensor:
        """Return mean and deviation over places, stage by stage, (B, F)."""
        last, stages = self.trunk(images, _STAGES)
        found = []
        for features_BChw in (*stages, last):
            # As matrix products: in this layout a reduction takes ten times as long.
            features_BNC = features_BChw.float().permute(0, 2, 3, 1).flatten(1, 2)
            places = features_BNC.shape[1]
            share_11N = features_BNC.new_full((1, 1, places), 1 / places)
            mean_B1C = share_11N @ features_BNC
            variance_B1C = share_11N @ (features_BNC - mean_B1C).square()
            found += [mean_B1C, (variance_B1C + _LEAST_DEVIATION**2).sqrt()]
        return torch.cat(found, dim=2).squeeze(1)

    def forward(self, images: Tensor) -> Tensor:
        statistics = (self.statistics(images) - self.mean) * self.scale
        evidence: Tensor = self.project(self.drop(statistics))
        return evidence


class CompactModel(QualityNetwork):
    """Score images of any size from local distortion and from content.

    Args:
        low, high: nominal ends of the scale; an untrained network scores near its middle.
        width: D, the evidence width in which the experts meet.
        hidden: see `DistortionExpert`.
        drop: dropout rate of the content features, training only.
        content_side: pixels; the content expert sees the image at the area of a square of this
            side.
        width_factor: of both trunks, see `EfficientNetLite`.
        readouts: R, one for each data set that it learns from.
        padding: of the distortion expert's trunk, see `EfficientNetLite`.
    """

    content_side: int
    experts = ("content", "distortion")
    alone = True

    def __init__(
        self,
        *,
        low: float = 0.0,
        high: float = 5.0,
        width: int = 128,
        hidden: int = 128,
        drop: float = 0.2,
        content_side: int = 384,
        width_factor: float = 1.0,
        readouts: int = 1,
        padding: str = "zeros",
    ) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"the scale must rise, got {low=} {high=}")
        if padding not in ("zeros", "reflect"):
            raise ValueError(f"padding must be zeros or reflect, got {padding!r}")
        if content_side < MIN_SIDE:
            raise ValueError(f"content_side must be at least {MIN_SIDE}, got {content_side}")
        self.content_side = content_side
        self.middle, self.unit = (low + high) / 2, (high - low) / 5
        self.distortion = DistortionExpert(
            width=width, hidden=hidden, width_factor=width_factor, padding=padding
        )
        self.content = ContentExpert(width=width, drop=drop, width_factor=width_factor)
        self.readouts = readouts
        self.mixture = GatedMixture(experts=2, width=width, readouts=readouts)
        self.likeness = nn.Linear(width, readouts) if readouts > 1 else None
        assert self.mixture.gate is not None
        # Both experts count alike at first: the gate has to learn that they should not.
        nn.init.normal_(self.mixture.gate.weight, std=0.01)
        nn.init.ones_(self.mixture.gate.bias)

    def load_backbone(self, source: str) -> None:
        """Start both trunks from the ImageNet weights of the installed package."""
        if source == "random":
            return
        if source != "published":
            raise UsageError("compact starts from its published weights, or --backbone random")
        weights = published_weights()
        load_published(self.distortion.trunk, weights)
        load_published(self.content.trunk, weights)

    def calibrate(self, images: Iterable[Tensor]) -> None:
        with torch.inference_mode():
            self.content.calibrate(
                content_view(image[None], side=self.content_side)[0] for image in images
            )

    def depth_of(self, name: str) -> int:
        """Return how deep a parameter lies: 0 in the heads, up to 3 in the first blocks.

        Those reach a stride of four pixels: edges and colours, which serve any task. The trunk of
        content is 2, that of distortion 1: what ImageNet taught is nearer to content.
        """
        part = _TRUNK.match(name)
        if part is None:
            return 0
        first = part["stem"] is not None or int(part["block"] or len(STAGES)) <= _TAPS[0]
        return 3 if first else {"distortion": 1, "content": 2}[part[1]]

    def forward(self, images: Tensor, whole: Tensor | None = None) -> Prediction:
        """Score images.

        Args:
            images: (B, 3, H, W) float in [0, 1], sides of at least `MIN_SIDE`.
            whole: what the content expert sees of them, (B, 3, H', W') in [0, 1]; made from
                `images` when None. In training `images` are crops and this is not.

        Raises:
            ImageError: not a batch of colour images, or too small.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < MIN_SIDE:
            raise ImageError(
                f"expected a batch of shape (B, 3, H, W) with sides of at least {MIN_SIDE} "
                f"pixels, found {tuple(images.shape)}"
            )
        whole = content_view(images, side=self.content_side) if whole is None else whole
        evidence_BDhw, weights_Bhw = self.distortion(normalise(images))
        content_BD = self.content(normalise(whole))
        # The few numbers from here on are kept in float32 under autocast.
        with torch.autocast(images.device.type, enabled=False):
            evidence_BDhw, weights_Bhw = evidence_BDhw.float(), weights_Bhw.float()
            distortion_BD = torch.einsum("bdhw,bhw->bd", evidence_BDhw, weights_Bhw)
            content_BD = content_BD.float()
            likeness_BR = None if self.likeness is None else self.likeness(content_BD)
            mixture = self.mixture(
                torch.stack([content_BD, distortion_BD], dim=1),
                None if likeness_BR is None else likeness_BR.softmax(dim=1),
            )
            per_place_Bhw = torch.einsum("bdhw,bd->bhw", evidence_BDhw, mixture.readout)
            return Prediction(
                score=self.middle + self.unit * mixture.score,
                contributions=self.unit * mixture.contributions,
                bias=self.middle + self.unit * mixture.bias,
                gate=mixture.gate,
                contribution_map=self.unit
                * mixture.gate[:, 1, None, None]
                * per_place_Bhw
                * weights_Bhw,
                weight_map=weights_Bhw,
                scores=None if likeness_BR is None else self.middle + self.unit * mixture.scores,
                likeness=likeness_BR,
            )


def content_view(images: Tensor, *, side: int) -> Tensor:
    """Return images (B, 3, H, W) in [0, 1] at the area of a square, in their proportions."""
    height, width = images.shape[2:]
    ratio = side / math.sqrt(height * width)
    size = [max(MIN_SIDE, round(length * ratio)) for length in (height, width)]
    if size == [height, width]:
        return images
    return F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0.0, 1.0)
