"""The official code's order of work, run with the parameters of a `MAAGIQA`.

The baseline of `head.py`: all 12 ViT blocks, final norm and classifier run though only
blocks 6 to 9 are read; every attention materialises its matrix; windows are rolled and
partitioned for every block; maps go back and forth between (B, C, N) and (B, C, H, W).
Own code after the description in the official files; it gives the same scores.

Shapes: B images, N positions, C channels, W windows, T positions per window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ma_agiqa.models.paper.model import MAAGIQA
from ma_agiqa.models.paper.swin import WindowAttention, WindowedStage, WindowLayer
from ma_agiqa.models.paper.visual import AttentionStage, ChannelAttention
from ma_agiqa.models.prediction import Prediction


class OfficialSchedule(nn.Module):
    """Scores like `model`, whose parameters it shares, by the official schedule."""

    def __init__(self, model: MAAGIQA) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        self.model = model
        self.vit = VisionTransformer(img_size=224, patch_size=8)  # ViT-B, 12 blocks, classifier
        own = model.visual.backbone.vit
        self.vit.patch_embed = own.patch_embed
        self.vit.cls_token, self.vit.pos_embed = own.cls_token, own.pos_embed
        self.vit.blocks = nn.Sequential(*own.blocks, *list(self.vit.blocks)[len(own.blocks) :])

    def forward(self, images: Tensor, semantics: Tensor) -> Prediction:
        visual = self.model.visual
        taps, x_BTD = {}, self.vit._pos_embed(self.vit.patch_embed(images))
        for i, block in enumerate(self.vit.blocks):
            x_BTD = x_BTD + unfused_vit_attention(block.attn, block.norm1(x_BTD))
            x_BTD = x_BTD + block.mlp(block.norm2(x_BTD))
            taps[i] = x_BTD
        self.vit.forward_head(self.vit.norm(x_BTD))
        x_BNC = torch.cat([taps[i][:, 1:] for i in visual.backbone.taps], dim=2)
        x_BCN = x_BNC.transpose(1, 2).contiguous()
        x_BCN = run_stage(visual.stage1, x_BCN)
        x_BNC = run_stage(visual.stage2, x_BCN).transpose(1, 2).contiguous()
        evidence = (visual.quality(x_BNC) * visual.weight(x_BNC)).squeeze(2)
        return self.fuse(evidence, semantics)

    def fuse(self, patches_BN: Tensor, semantics: Tensor) -> Prediction:
        model = self.model
        vectors = zip(model.semantic_projections, semantics.unbind(1), strict=True)
        evidence = [project(vector) for project, vector in vectors]
        evidence.append(model.visual_projection(patches_BN))
        mixture = model.mixture(torch.stack(evidence, dim=1))
        return model.explain(patches_BN, mixture)


def unfused_vit_attention(attention: nn.Module, x_BTD: Tensor) -> Tensor:
    B, T, D = x_BTD.shape
    qkv = attention.qkv(x_BTD).reshape(B, T, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    weights = ((query @ key.transpose(-2, -1)) * attention.scale).softmax(dim=-1)
    return attention.proj((weights @ value).transpose(1, 2).reshape(B, T, D))


def run_stage(stage: AttentionStage, x_BCN: Tensor) -> Tensor:
    B, C, _ = x_BCN.shape
    for attention in stage.attentions:
        x_BCN = unfused_channel_attention(attention, x_BCN)
    grid = stage.windows.grid
    kernel = stage.reduce.weight[:, :, None, None]
    x_BCHW = F.conv2d(x_BCN.reshape(B, C, grid, grid), kernel, stage.reduce.bias)
    return run_windows(stage.windows, x_BCHW).flatten(2)


def unfused_channel_attention(attention: ChannelAttention, x_BCN: Tensor) -> Tensor:
    B, C, N = x_BCN.shape
    query, key, value = attention.query(x_BCN), attention.key(x_BCN), attention.value(x_BCN)
    weights = ((query @ key.transpose(-2, -1)) * N**-0.5).softmax(dim=-1)
    attended = attention.dropout(weights @ value).transpose(1, 2).reshape(B, C, N)
    return attended + x_BCN


def run_windows(windows: WindowedStage, x_BCHW: Tensor) -> Tensor:
    x_BCHW = windows.dropout(x_BCHW)
    for layer in windows.layers:
        x_BNC = x_BCHW.flatten(2).transpose(1, 2)
        for i, block in enumerate(layer.blocks):
            y_BNC = rolled_attention(layer, i, block.norm1(x_BNC))
            x_BNC = x_BNC + y_BNC
            x_BNC = x_BNC + block.mlp(block.norm2(x_BNC))
        y_BCHW = x_BNC.transpose(1, 2).reshape(x_BCHW.shape).contiguous()
        x_BCHW = F.relu(layer.conv(y_BCHW)) * windows.scale + x_BCHW
    return x_BCHW


def rolled_attention(layer: WindowLayer, i: int, x_BNC: Tensor) -> Tensor:
    attention: WindowAttention = layer.blocks[i].attention
    B, N, C = x_BNC.shape
    grid, side = layer.grid, int(attention.tokens**0.5)
    shift = side // 2 if layer.masked[i] else 0
    x = x_BNC.view(B, grid, grid, C)
    x = x.roll((-shift, -shift), (1, 2)) if shift else x
    x = x.view(B, grid // side, side, grid // side, side, C).permute(0, 1, 3, 2, 4, 5)
    x = unfused_window_attention(attention, x.reshape(-1, side * side, C), layer.mask_of(i))
    x = x.view(B, grid // side, grid // side, side, side, C).permute(0, 1, 3, 2, 4, 5)
    x = x.reshape(B, grid, grid, C)
    x = x.roll((shift, shift), (1, 2)) if shift else x
    return x.reshape(B, N, C)


def unfused_window_attention(
    attention: WindowAttention, x_WTC: Tensor, mask_WTT: Tensor | None
) -> Tensor:
    W, T, C = x_WTC.shape
    heads = attention.heads
    qkv = attention.qkv(x_WTC).reshape(W, T, 3, heads, C // heads).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    logits = (query * (C // heads) ** -0.5) @ key.transpose(-2, -1)
    bias = attention.bias_table[attention.bias_index.flatten()].view(T, T, heads)
    logits = logits + bias.permute(2, 0, 1).unsqueeze(0)
    if mask_WTT is not None:
        count = mask_WTT.shape[0]
        logits = logits.view(-1, count, heads, T, T) + mask_WTT[None, :, None]
        logits = logits.view(-1, heads, T, T)
    x = (logits.softmax(dim=-1) @ value).transpose(1, 2).reshape(W, T, C)
    return attention.proj(x)
