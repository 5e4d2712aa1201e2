"""Visual abstractor of mPLUG-Owl2: learned queries read the vision tokens.

Source: mplug_owl2/model/visual_encoder.py, class MplugOwlVisualAbstractorModel.
Kept from the official code:
- the residual of the attention adds to the *normalised* queries, not to the queries;
- positions are added to queries and keys, never to values;
- queries attend to themselves and to the vision tokens, class token included;
- `norm1`, `normk` and `norm2` use the framework's epsilon 1e-5, only `ffn_ln` the config's;
- `q_pos_embed` and `k_pos_embed` are stored in every layer although all layers share them.
Not here: dropout (zero in the released configuration).

Shapes: B images, Q queries, N vision tokens, C channels, D language width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ma_agiqa.lmm.mplug_owl2.configuration import AbstractorConfig

TORCH_LAYER_NORM_EPS = 1e-5


def sincos_table(positions: Tensor, width: int) -> Tensor:
    """Return [sin, cos] of each position at width/2 frequencies, shape (P, width), float32."""
    exponents = torch.arange(width // 2, dtype=torch.float64, device=positions.device)
    frequencies = 10000.0 ** (-exponents / (width / 2))
    angles = positions.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_grid(grid: int, width: int) -> Tensor:
    """Return positions of a class token (zeros) and grid x grid patches, (1 + grid², width).

    The first half of the channels encodes the column, the second the row, as in MAE.
    """
    steps = torch.arange(grid, device="cpu")
    columns = sincos_table(steps.repeat(grid), width // 2)
    rows = sincos_table(steps.repeat_interleave(grid), width // 2)
    patches = torch.cat([columns, rows], dim=1)
    return torch.cat([torch.zeros(1, width, device="cpu"), patches])


class Attention(nn.Module):
    """Queries attend to [queries; vision tokens]."""

    q_pos_embed: Tensor
    k_pos_embed: Tensor

    def __init__(self, *, config: AbstractorConfig, grid: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        # Tables are computed, on the CPU even while weights are still on the meta device.
        queries = sincos_table(torch.arange(config.queries, device="cpu"), width)
        self.register_buffer("q_pos_embed", queries)
        self.register_buffer("k_pos_embed", sincos_grid(grid, width))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, h_BQC: Tensor, vision_BNC: Tensor) -> Tensor:
        """Both inputs normalised; (B, Q, C), (B, N, C) -> (B, Q, C)."""
        e_BMC = torch.cat([h_BQC, vision_BNC], dim=1)
        positions_MC = torch.cat([self.q_pos_embed, self.k_pos_embed])
        query = self._heads(self.query(h_BQC + self.q_pos_embed))
        key = self._heads(self.key(e_BMC + positions_MC))
        value = self._heads(self.value(e_BMC))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).flatten(2)


class GatedFeedForward(nn.Module):
    """SwiGLU with a LayerNorm before the last linear layer."""

    def __init__(self, *, config: AbstractorConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        self.w1 = nn.Linear(width, hidden)
        self.w2 = nn.Linear(hidden, width)
        self.w3 = nn.Linear(width, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, eps=config.layer_norm_eps)

    def forward(self, x_BQC: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        return self.w2(self.ffn_ln(F.silu(self.w1(x_BQC)).mul_(self.w3(x_BQC))))


class Output(nn.Module):
    """Projection of the attention and the feed-forward part, each with its residual."""

    def __init__(self, *, config: AbstractorConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.out_proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=TORCH_LAYER_NORM_EPS)
        self.mlp = GatedFeedForward(config=config)

    def forward(self, h_BQC: Tensor, mixed_BQC: Tensor) -> Tensor:
        """(B, Q, C), (B, Q, C) -> (B, Q, C)."""
        y_BQC = h_BQC + self.out_proj(mixed_BQC)
        return y_BQC + self.mlp(self.norm2(y_BQC))


class CrossAttention(nn.Module):
    """Attention between normalised queries and normalised vision tokens."""

    def __init__(self, *, config: AbstractorConfig, grid: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention = Attention(config=config, grid=grid)
        self.output = Output(config=config)
        self.norm1 = nn.LayerNorm(width, eps=TORCH_LAYER_NORM_EPS)
        self.normk = nn.LayerNorm(width, eps=TORCH_LAYER_NORM_EPS)

    def forward(self, queries_BQC: Tensor, vision_BNC: Tensor) -> Tensor:
        """(B, Q, C), (B, N, C) -> (B, Q, C)."""
        h_BQC = self.norm1(queries_BQC)
        return self.output(h_BQC, self.attention(h_BQC, self.normk(vision_BNC)))


class Layer(nn.Module):
    """Holds the cross-attention under its released name."""

    def __init__(self, *, config: AbstractorConfig, grid: int) -> None:
        super().__init__()
        self.crossattention = CrossAttention(config=config, grid=grid)

    def forward(self, queries_BQC: Tensor, vision_BNC: Tensor) -> Tensor:
        """(B, Q, C), (B, N, C) -> (B, Q, C)."""
        return self.crossattention(queries_BQC, vision_BNC)


class Encoder(nn.Module):
    """Holds the layers under their released names."""

    def __init__(self, *, config: AbstractorConfig, grid: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config=config, grid=grid) for _ in range(config.layers))


class VisualAbstractor(nn.Module):
    """Vision tokens -> Q + 1 vectors in the language model's space, the last one learned."""

    def __init__(self, *, config: AbstractorConfig, grid: int, language_width: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.query_embeds = nn.Parameter(0.02 * torch.randn(1, config.queries, width))
        self.encoder = Encoder(config=config, grid=grid)
        self.visual_fc = nn.Linear(width, language_width)
        self.vit_eos = nn.Parameter(0.02 * torch.randn(1, 1, language_width))

    def forward(self, vision_BNC: Tensor) -> Tensor:
        """(B, N, C) -> (B, Q + 1, D)."""
        return self.intermediates(vision_BNC)[-1]

    def intermediates(self, vision_BNC: Tensor) -> list[Tensor]:
        """Return every layer's queries and the projected output with `vit_eos` appended."""
        states = [self.query_embeds.expand(len(vision_BNC), -1, -1)]
        for layer in self.encoder.layers:
            states.append(layer(states[-1], vision_BNC))
        eos = self.vit_eos.expand(len(vision_BNC), -1, -1)
        return [*states[1:], torch.cat([self.visual_fc(states[-1]), eos], dim=1)]
