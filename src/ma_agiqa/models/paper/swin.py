"""Windowed self-attention stage with a convolution after every two blocks.

Source: paper section 3.1; official models/swin.py (SwinTransformer with scaled residual),
there taken from MANIQA. Own code: tokens stay in one (B, N, C) layout, and going from one
window partition to the next, shift included, is a single gather with a table made once.
Kept from the official code: odd blocks shift by half a window and mask with -100 instead of
minus infinity; the block's output passes a 3x3 convolution and ReLU and is added scaled.
What this file does not do: patch merging; the official `downsample` is never called.

Shapes: B images, N positions, C channels, W windows, T positions per window, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -100.0


def window_order(grid: int, window: int, shift: int) -> Tensor:
    """Return which position stands where when the shifted grid is read window by window.

    Shape (N,): `tokens[:, order]` is the official roll followed by the window partition.
    """
    positions = torch.arange(grid * grid).view(grid, grid).roll((-shift, -shift), (0, 1))
    per_side = grid // window
    return positions.view(per_side, window, per_side, window).permute(0, 2, 1, 3).reshape(-1)


def shift_mask(grid: int, window: int, shift: int) -> Tensor:
    """Return (W, T, T): 0 between positions that are neighbours in the image, else -100."""
    edges = torch.tensor([grid - window, grid - shift])
    band = torch.bucketize(torch.arange(grid), edges, right=True)  # 0, 1 or 2
    region = band[:, None] * 3 + band[None, :]
    region_WT = region.reshape(-1)[window_order(grid, window, 0)].view(-1, window * window)
    return (region_WT[:, :, None] != region_WT[:, None, :]) * MASKED


def relative_position_index(window: int) -> Tensor:
    """Return (T, T): row of the bias table for each pair of positions in a window."""
    row, column = (
        axis.reshape(-1)
        for axis in torch.unravel_index(torch.arange(window * window), (window, window))
    )
    rows = row[:, None] - row[None, :] + window - 1
    columns = column[:, None] - column[None, :] + window - 1
    return rows * (2 * window - 1) + columns


def drop_path(x: Tensor, rate: float, *, training: bool) -> Tensor:
    """Zero whole images of a residual branch with probability `rate`, scaling the rest."""
    if rate == 0 or not training:
        return x
    keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - rate)
    return x * keep / (1 - rate)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside each window, with a learned bias per relative place."""

    def __init__(self, *, width: int, heads: int, window: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{width=} is not a multiple of {heads=}")
        self.heads = heads
        self.tokens = window * window
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.bias_index: Tensor
        self.register_buffer("bias_index", relative_position_index(window), persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BNC: Tensor, mask_WTT: Tensor | None) -> Tensor:
        """Return (B, N, C); positions stand in window order."""
        B, N, C = x_BNC.shape
        qkv = self.qkv(x_BNC).view(B * N // self.tokens, self.tokens, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        bias = self.bias_table[self.bias_index.flatten()].view(self.tokens, self.tokens, -1)
        bias = bias.permute(2, 0, 1).unsqueeze(0)
        if mask_WTT is not None:
            bias = (bias + mask_WTT.unsqueeze(1)).repeat(B, 1, 1, 1)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(B, N, C))
        return projected


class WindowBlock(nn.Module):
    """Pre-norm attention and MLP, both with residual; no change of position order."""

    def __init__(
        self, *, width: int, heads: int, window: int, mlp_width: int, drop_path: float
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width)
        self.attention = WindowAttention(width=width, heads=heads, window=window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_width), nn.GELU(), nn.Linear(mlp_width, width)
        )

    def forward(self, x_BNC: Tensor, mask_WTT: Tensor | None) -> Tensor:
        attended = self.attention(self.norm1(x_BNC), mask_WTT)
        x_BNC = x_BNC + drop_path(attended, self.drop_path, training=self.training)
        expanded = self.mlp(self.norm2(x_BNC))
        return x_BNC + drop_path(expanded, self.drop_path, training=self.training)


class WindowLayer(nn.Module):
    """Window blocks with alternating shift, then convolution and ReLU."""

    def __init__(
        self,
        *,
        grid: int,
        width: int,
        heads: int,
        window: int,
        mlp_width: int,
        drop_path: Sequence[float],
    ) -> None:
        super().__init__()
        self.grid = grid
        shift = window // 2 if grid > window else 0
        shifts = [shift * (i % 2) for i in range(len(drop_path))]
        orders = [window_order(grid, window, s) for s in shifts]
        places = [torch.arange(grid * grid), *(order.argsort() for order in orders)]
        gathers = [place[order] for place, order in zip(places, [*orders, places[0]], strict=True)]
        self.gathers: Tensor
        self.register_buffer("gathers", torch.stack(gathers), persistent=False)
        self.mask: Tensor | None
        mask = shift_mask(grid, window, shift) if shift else None
        self.register_buffer("mask", mask, persistent=False)
        self.masked = [s > 0 for s in shifts]
        self.blocks = nn.ModuleList(
            WindowBlock(
                width=width, heads=heads, window=window, mlp_width=mlp_width, drop_path=rate
            )
            for rate in drop_path
        )
        self.conv = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x_BNC: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x_BNC = block(x_BNC.index_select(1, self.gathers[i]), self.mask_of(i))
        x_BNC = x_BNC.index_select(1, self.gathers[-1])
        map_BCHW = x_BNC.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return F.relu(self.conv(map_BCHW)).flatten(2).transpose(1, 2)

    def mask_of(self, block: int) -> Tensor | None:
        return self.mask if self.masked[block] else None


class WindowedStage(nn.Module):
    """Layers of window blocks, each added to its input after scaling.

    Args:
        depths: number of window blocks in each layer.
        drop_path: rate of the last block; the rate grows linearly from 0 over all blocks.
    """

    def __init__(
        self,
        *,
        grid: int,
        width: int,
        heads: int,
        window: int,
        mlp_width: int,
        depths: Sequence[int],
        scale: float,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        if grid % window:
            raise ValueError(f"a grid of {grid} does not divide into windows of {window}")
        self.grid = grid
        self.width = width
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        steps = max(1, sum(depths) - 1)
        rates = iter([drop_path * i / steps for i in range(sum(depths))])
        self.layers = nn.ModuleList(
            WindowLayer(
                grid=grid,
                width=width,
                heads=heads,
                window=window,
                mlp_width=mlp_width,
                drop_path=list(islice(rates, depth)),
            )
            for depth in depths
        )

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Return (B, N, C); positions stand row by row."""
        x_BNC = self.dropout(x_BNC)
        for layer in self.layers:
            x_BNC = torch.add(x_BNC, layer(x_BNC), alpha=self.scale)
        return x_BNC
