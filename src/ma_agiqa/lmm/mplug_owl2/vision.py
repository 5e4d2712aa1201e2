"""Vision tower of mPLUG-Owl2: a CLIP-style ViT (L/14 at 448 px in the released model).

Source: mplug_owl2/model/visual_encoder.py, class MplugOwlVisionModel.
Kept from the official code: the fused projection is laid out [heads, 3, head width], the
patch convolution has no bias, the class token goes on to the abstractor.
Not here: dropout (zero in the released configuration), the unused projection.

Shapes: B images, S pixels per side, N tokens (patches + class token), C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ma_agiqa.lmm.mplug_owl2.configuration import VisionConfig


class Embeddings(nn.Module):
    """Patches, class token and learned positions, normalised."""

    def __init__(self, *, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position_embedding = nn.Parameter(0.02 * torch.randn(1, config.tokens, width))
        self.patch_embed = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.pre_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, N, C)."""
        patches_BNC = self.patch_embed(pixel_values).flatten(2).transpose(1, 2)
        class_BNC = self.cls_token.expand(len(patches_BNC), -1, -1)
        tokens_BNC = torch.cat([class_BNC, patches_BNC], dim=1) + self.position_embedding
        return self.pre_layernorm(tokens_BNC)


class Attention(nn.Module):
    """Self-attention with one fused projection."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.dense = nn.Linear(width, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        fused = self.query_key_value(x_BNC).unflatten(2, (self.heads, 3, -1))
        query, key, value = fused.permute(3, 0, 2, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.dense(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with QuickGELU, x * sigmoid(1.702 x), between."""

    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        hidden = self.fc1(x_BNC)
        return self.fc2((1.702 * hidden).sigmoid_().mul_(hidden))


class Layer(nn.Module):
    """Pre-norm transformer layer; adds to its input in place (the model is frozen)."""

    def __init__(self, *, config: VisionConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = Attention(width=width, heads=config.heads)
        self.input_layernorm = nn.LayerNorm(width, eps=eps)
        self.mlp = FeedForward(width=width, hidden=config.intermediate_size)
        self.post_attention_layernorm = nn.LayerNorm(width, eps=eps)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C), the same memory."""
        x_BNC.add_(self.self_attn(self.input_layernorm(x_BNC)))
        return x_BNC.add_(self.mlp(self.post_attention_layernorm(x_BNC)))


class Encoder(nn.Module):
    """Holds the layers under their released names."""

    def __init__(self, *, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config=config) for _ in range(config.layers))


class VisionModel(nn.Module):
    """Image -> one vector per patch and one for the class token."""

    def __init__(self, *, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config=config)
        self.encoder = Encoder(config=config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return all normalised tokens, (B, 3, S, S) -> (B, N, C)."""
        x_BNC = self.embeddings(pixel_values)
        for layer in self.encoder.layers:
            x_BNC = layer(x_BNC)
        return self.post_layernorm(x_BNC)

    def intermediates(self, pixel_values: Tensor) -> list[Tensor]:
        """Return the embeddings, every layer's output and the normalised output."""
        states = [self.embeddings(pixel_values)]
        for layer in self.encoder.layers:
            states.append(layer(states[-1].clone()))
        return [*states, self.post_layernorm(states[-1])]
