"""Attention between the channels of a feature map.

Source: paper section 3.1; official models/MA_AGIQA.py (TABlock), there taken from MANIQA.
Kept from the official code: the input is not normalised, there is no output projection, and
the attended map is transposed and then *reshaped* to its old shape instead of transposed
back. Channels and places are scrambled by that, and the published weights depend on it.
The key's bias is kept for the published layout; it moves whole rows of logits, which softmax
ignores.
Attention is never materialised: at C = 3072 the C x C matrix of one image takes 38 MB.

Shapes: B images, C channels, N positions (rows x columns).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


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
        return x_BCN + self.dropout(transpose_and_reshape(attended_BCN))
