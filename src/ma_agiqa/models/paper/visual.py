"""The paper's visual expert: where an image is distorted, and how much each place counts.

Source: paper section 3.1 (MANIQA without its final pooling); official models/MA_AGIQA.py.
The vision transformer is timm's. It is built only up to the last block that is read: of the
official ViT-B/8 blocks 10 and 11, the final norm and the classifier never reach the score.

Kept from the official code:
- the four taps are concatenated along channels and mapped by two stages of channel attention, a 1x1
  reduction and a windowed stage; local quality is ReLU and local weight is sigmoid of a two-layer
  head each; their product is the evidence, unpooled;
- channel attention does not normalise its input and has no output projection, and the attended map
  is transposed and then *reshaped* to its old shape instead of transposed back. Channels and places
  are scrambled by that, and the published weights depend on it;
- the key's bias, which moves whole rows of logits and is ignored by softmax.

Attention is never materialised: at C = 3072 the C x C matrix of one image takes 38 MB.
What this file does not do: fetch weights. The published ones of ViT-B/8 are timm's
`vit_base_patch8_224.augreg_in21k_ft_in1k`, which is not the tag timm gives by default today.

Shapes: B images, L taps, N patches (rows x columns), C channels, D token width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ma_agiqa.errors import ImageError, MissingExtraError
from ma_agiqa.models.paper.swin import WindowedStage


class Backbone(nn.Module):
    """ViT whose chosen blocks are returned as they leave the residual stream.

    Args:
        taps: indices of the blocks to return, counted from 0, ascending; later blocks than
            the last one are not built.
    """

    def __init__(
        self, *, image_size: int, patch_size: int, width: int, heads: int, taps: Sequence[int]
    ) -> None:
        super().__init__()
        taps = [int(tap) for tap in taps]
        if not taps or taps[0] < 0 or taps != sorted(set(taps)):
            raise ValueError(f"taps must be ascending block indices, got {taps}")
        if image_size % patch_size:
            raise ValueError(f"{image_size=} is not a multiple of {patch_size=}")
        try:
            with torch.device("cpu"):  # torch 2.6 computes while timm is imported, even on "meta"
                from timm.models.vision_transformer import VisionTransformer
        except ImportError as error:
            raise MissingExtraError("timm", "paper") from error
        self.taps = taps
        self.vit = VisionTransformer(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=width,
            depth=taps[-1] + 1,
            num_heads=heads,
            num_classes=0,
            final_norm=False,
        )

    def forward(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return per tap the patch tokens (B, N, D) and the class token (B, 1, D)."""
        taps: Any = self.vit.forward_intermediates(
            images,
            indices=self.taps,
            output_fmt="NLC",
            intermediates_only=True,
            return_prefix_tokens=True,
        )
        return list(taps)


def transpose_and_reshape(attended_BCN: Tensor) -> Tensor:
    """Transpose to (B, N, C), then read that memory as (B, C, N): the official oddity."""
    return attended_BCN.transpose(1, 2).reshape(attended_BCN.shape)


class ChannelAttention(nn.Module):
    """Single-head attention in which every channel is a token of N numbers."""

    def __init__(self, *, positions: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(positions, positions)
        self.key = nn.Linear(positions, positions)
        self.value = nn.Linear(positions, positions)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Return x plus the scrambled attended map, shape (B, C, N)."""
        query, key, value = (
            linear(x_BCN).unsqueeze(1) for linear in (self.query, self.key, self.value)
        )
        attended_BCN = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        mixed: Tensor = x_BCN + self.dropout(transpose_and_reshape(attended_BCN))
        return mixed


class VisualEvidence(NamedTuple):
    """What the visual expert says, patch by patch, row by row.

    Attributes:
        quality: local quality s, (B, N), at least 0.
        weight: local weight w, (B, N), within 0 and 1.
        evidence: their product f, (B, N).
    """

    quality: Tensor
    weight: Tensor
    evidence: Tensor


def patch_head(width: int, dropout: float, activation: nn.Module) -> nn.Sequential:
    """Two-layer head that gives one number per patch."""
    return nn.Sequential(
        nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1), activation
    )


class AttentionStage(nn.Module):
    """Channel attention over all channels, 1x1 reduction, windowed attention over places."""

    def __init__(
        self, *, channels: int, attentions: int, dropout: float, windows: WindowedStage
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            ChannelAttention(positions=windows.grid**2, dropout=dropout) for _ in range(attentions)
        )
        self.reduce = nn.Linear(channels, windows.width)
        self.windows = windows

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Return (B, N, width)."""
        for attention in self.attentions:
            x_BCN = attention(x_BCN)
        windowed_BNC: Tensor = self.windows(self.reduce(x_BCN.transpose(1, 2)))
        return windowed_BNC


class VisualExpert(nn.Module):
    """From a normalised image to one piece of evidence per patch.

    Args:
        image_size, patch_size: pixels; the patch grid is their quotient squared.
        width, heads, taps: see `Backbone`.
        attentions: channel-attention blocks in each of the two stages.
        stage_widths: channels that the two stages end with.
        window, window_heads, window_mlp, window_depths, scale: see `WindowedStage`.
        dropout, drop_path: rates while training.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 8,
        width: int = 768,
        heads: int = 12,
        taps: Sequence[int] = (6, 7, 8, 9),
        attentions: int = 2,
        stage_widths: Sequence[int] = (768, 384),
        window: int = 4,
        window_heads: int = 4,
        window_mlp: int = 768,
        window_depths: Sequence[int] = (2, 2),
        scale: float = 0.8,
        dropout: float = 0.1,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.grid = image_size // patch_size
        self.backbone = Backbone(
            image_size=image_size, patch_size=patch_size, width=width, heads=heads, taps=taps
        )

        def stage(channels: int, width: int) -> AttentionStage:
            windows = WindowedStage(
                grid=self.grid,
                width=width,
                heads=window_heads,
                window=window,
                mlp_width=window_mlp,
                depths=window_depths,
                scale=scale,
                dropout=dropout,
                drop_path=drop_path,
            )
            return AttentionStage(
                channels=channels, attentions=attentions, dropout=dropout, windows=windows
            )

        first, second = stage_widths
        self.stage1 = stage(width * len(taps), first)
        self.stage2 = stage(first, second)
        self.quality = patch_head(second, dropout, nn.ReLU())
        self.weight = patch_head(second, dropout, nn.Sigmoid())

    def forward(self, images: Tensor) -> VisualEvidence:
        """Judge every patch.

        Args:
            images: (B, 3, image_size, image_size), normalised to -1..1.

        Raises:
            ImageError: images of another shape.
        """
        self.check(images)
        taps = self.backbone(images)
        x_BCN = torch.cat([patches.transpose(1, 2) for patches, _ in taps], dim=1)
        x_BNC = self.stage1(x_BCN)
        x_BCN = x_BNC.transpose(1, 2).contiguous()
        x_BNC = self.stage2(x_BCN)
        quality_BN = self.quality(x_BNC).squeeze(-1)
        weight_BN = self.weight(x_BNC).squeeze(-1)
        return VisualEvidence(quality_BN, weight_BN, quality_BN * weight_BN)

    def check(self, images: Tensor) -> None:
        """Refuse a batch that this network was not built for."""
        expected = (3, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ImageError(
                f"expected images of shape (B, {', '.join(map(str, expected))}), "
                f"found {tuple(images.shape)}",
                remedy="preprocess with the transform named in the model's configuration",
            )
