"""Vision transformer that hands out the tokens of its middle blocks.

Source: paper section 3.1; official models/MA_AGIQA.py (ViT-B/8 with hooks on every block).
The transformer itself is timm's. It is built only up to the last block that is read: of the
official ViT-B/8 blocks 10 and 11, the final norm and the classifier never reach the score.
What this file does not do: fetch weights. The published ones of ViT-B/8 are timm's
`vit_base_patch8_224.augreg_in21k_ft_in1k`, which is not the tag timm gives by default today.

Shapes: B images, N patches, D token width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ma_agiqa.errors import MissingExtraError


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
        return taps
