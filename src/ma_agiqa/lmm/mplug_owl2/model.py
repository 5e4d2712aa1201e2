"""mPLUG-Owl2 as a frozen reader of images: one vector per image and question.

In the order of this file: the sizes; the vision tower, a CLIP-style ViT (L/14 at 448 px in the
released model); the visual abstractor, whose learned queries read the vision tokens; the language
model, LLaMA-2 whose norms, keys and values know two modalities; the text before the image, run
once and kept; the whole model.

Source: mplug_owl2/model/ of the official code (visual_encoder.py, modeling_llama2.py,
multiway.py, modeling_mplug_owl2.py). The pooling is MA-AGIQA's getFeature.py: the mean over
*all* positions (BOS, text, image, text) of the last hidden state after its norm.
Parameter names and shapes are the released ones; `lm_head` is there because a checkpoint has it.

Kept from the official code:
- Vision: the fused projection is laid out [heads, 3, head width], the patch convolution has no
  bias, the class token goes on to the abstractor.
- Abstractor: the residual of the attention adds to the *normalised* queries, not to the queries;
  positions are added to queries and keys, never to values; queries attend to themselves and to
  the vision tokens, class token included; `norm1`, `normk` and `norm2` use the framework's
  epsilon 1e-5, only `ffn_ln` the configured one; `q_pos_embed` and `k_pos_embed` are stored in
  every layer although all layers share them.
- Language: `k_proj`, `v_proj` and the two norms of a layer exist twice, way 0 for text and way 1
  for image positions (`vit_eos` counts as image); everything else is shared. Cosine and sine are
  rounded to the model's dtype; the normalised state is rounded before it is weighted. There is no
  padding mask, and positions are counted over the merged sequence.
Not here: generation, training, several images per prompt, dropout (zero in the released
configuration), rope scaling, tensor parallelism. Fewer key/value heads than heads work here; the
official code crashes on them.

Two schedules give the same vectors. "official" runs the whole prompt, vision included, once per
question. "cached" looks at each image once, and runs the text before the image once per question
and lifetime of the weights: the language model is causal and the image comes after the question,
so the positions before the image are the same for every image.

Language states are position-major, (L, N, D), so that a slice of positions is contiguous memory.
Shapes: B images, S pixels per side, N vision tokens (patches + class token), C channels,
Q queries, K prompts; in the language model L positions, N sequences, D width, H heads,
G key/value heads, W head width, P positions of the past, I image positions, T text positions
after the image.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ma_agiqa.errors import UsageError

TEXT, IMAGE = 0, 1
IMAGE_TOKEN = -200
TORCH_LAYER_NORM_EPS = 1e-5

Schedule = Literal["cached", "official"]
_PROMPTS_KEPT = 8  # sets of questions; a set of two takes 43 MB in the released model
_ALIGNMENT = 16  # attention kernels copy a mask at every call unless P + L is a multiple of this


# --- sizes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class VisionConfig:
    """ViT-L/14 in the released model; sizes in pixels and channels."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Patches plus the class token."""
        return self.grid**2 + 1


@dataclass(frozen=True)
class AbstractorConfig:
    """The resampler that turns vision tokens into a few queries."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    queries: int
    layer_norm_eps: float


@dataclass(frozen=True)
class LanguageConfig:
    """The two-way LLaMA-2."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    max_positions: int
    rms_norm_eps: float
    rope_theta: float

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.heads


@dataclass(frozen=True)
class MPLUGOwl2Config:
    """Vision, abstractor and language configuration of one model."""

    vision: VisionConfig
    abstractor: AbstractorConfig
    language: LanguageConfig


class LayerStack(nn.Module):
    """Holds the layers of a tower under their released names."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


# --- vision tower ----------------------------------------------------------------------------


class VisionEmbeddings(nn.Module):
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
        normed_BNC: Tensor = self.pre_layernorm(tokens_BNC)
        return normed_BNC


class VisionAttention(nn.Module):
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
        projected_BNC: Tensor = self.dense(mixed.transpose(1, 2).flatten(2))
        return projected_BNC


class VisionFeedForward(nn.Module):
    """Two linear layers with QuickGELU, x * sigmoid(1.702 x), between."""

    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        hidden = self.fc1(x_BNC)
        out_BNC: Tensor = self.fc2((1.702 * hidden).sigmoid_().mul_(hidden))
        return out_BNC


class VisionLayer(nn.Module):
    """Pre-norm transformer layer; adds to its input in place (the model is frozen)."""

    def __init__(self, *, config: VisionConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = VisionAttention(width=width, heads=config.heads)
        self.input_layernorm = nn.LayerNorm(width, eps=eps)
        self.mlp = VisionFeedForward(width=width, hidden=config.intermediate_size)
        self.post_attention_layernorm = nn.LayerNorm(width, eps=eps)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C), the same memory."""
        x_BNC.add_(self.self_attn(self.input_layernorm(x_BNC)))
        return x_BNC.add_(self.mlp(self.post_attention_layernorm(x_BNC)))


class VisionModel(nn.Module):
    """Image -> one vector per patch and one for the class token."""

    def __init__(self, *, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config=config)
        self.encoder = LayerStack(VisionLayer(config=config) for _ in range(config.layers))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return all normalised tokens, (B, 3, S, S) -> (B, N, C)."""
        x_BNC = self.embeddings(pixel_values)
        for layer in self.encoder.layers:
            x_BNC = layer(x_BNC)
        normed_BNC: Tensor = self.post_layernorm(x_BNC)
        return normed_BNC

    def forward_intermediates(self, pixel_values: Tensor) -> list[Tensor]:
        """Return the embeddings, every layer's output and the normalised output."""
        states = [self.embeddings(pixel_values)]
        for layer in self.encoder.layers:
            states.append(layer(states[-1].clone()))
        return [*states, self.post_layernorm(states[-1])]


# --- visual abstractor -----------------------------------------------------------------------


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


class AbstractorAttention(nn.Module):
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
        heads: Tensor = x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return heads

    def forward(self, h_BQC: Tensor, vision_BNC: Tensor) -> Tensor:
        """Both inputs normalised; (B, Q, C), (B, N, C) -> (B, Q, C)."""
        e_BMC = torch.cat([h_BQC, vision_BNC], dim=1)
        positions_MC = torch.cat([self.q_pos_embed, self.k_pos_embed])
        query = self._heads(self.query(h_BQC + self.q_pos_embed))
        key = self._heads(self.key(e_BMC + positions_MC))
        value = self._heads(self.value(e_BMC))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).flatten(2)


class AbstractorFeedForward(nn.Module):
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
        out_BQC: Tensor = self.w2(self.ffn_ln(F.silu(self.w1(x_BQC)).mul_(self.w3(x_BQC))))
        return out_BQC


class AbstractorOutput(nn.Module):
    """Projection of the attention and the feed-forward part, each with its residual."""

    def __init__(self, *, config: AbstractorConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.out_proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=TORCH_LAYER_NORM_EPS)
        self.mlp = AbstractorFeedForward(config=config)

    def forward(self, h_BQC: Tensor, mixed_BQC: Tensor) -> Tensor:
        """(B, Q, C), (B, Q, C) -> (B, Q, C)."""
        y_BQC = h_BQC + self.out_proj(mixed_BQC)
        out_BQC: Tensor = y_BQC + self.mlp(self.norm2(y_BQC))
        return out_BQC


class AbstractorCrossAttention(nn.Module):
    """Attention between normalised queries and normalised vision tokens."""

    def __init__(self, *, config: AbstractorConfig, grid: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention = AbstractorAttention(config=config, grid=grid)
        self.output = AbstractorOutput(config=config)
        self.norm1 = nn.LayerNorm(width, eps=TORCH_LAYER_NORM_EPS)
        self.normk = nn.LayerNorm(width, eps=TORCH_LAYER_NORM_EPS)

    def forward(self, queries_BQC: Tensor, vision_BNC: Tensor) -> Tensor:
        """(B, Q, C), (B, N, C) -> (B, Q, C)."""
        h_BQC = self.norm1(queries_BQC)
        out_BQC: Tensor = self.output(h_BQC, self.attention(h_BQC, self.normk(vision_BNC)))
        return out_BQC


class AbstractorLayer(nn.Module):
    """Holds the cross-attention under its released name."""

    def __init__(self, *, config: AbstractorConfig, grid: int) -> None:
        super().__init__()
        self.crossattention = AbstractorCrossAttention(config=config, grid=grid)

    def forward(self, queries_BQC: Tensor, vision_BNC: Tensor) -> Tensor:
        """(B, Q, C), (B, N, C) -> (B, Q, C)."""
        attended_BQC: Tensor = self.crossattention(queries_BQC, vision_BNC)
        return attended_BQC


class VisualAbstractor(nn.Module):
    """Vision tokens -> Q + 1 vectors in the language model's space, the last one learned."""

    def __init__(self, *, config: AbstractorConfig, grid: int, language_width: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.query_embeds = nn.Parameter(0.02 * torch.randn(1, config.queries, width))
        self.encoder = LayerStack(
            AbstractorLayer(config=config, grid=grid) for _ in range(config.layers)
        )
        self.visual_fc = nn.Linear(width, language_width)
        self.vit_eos = nn.Parameter(0.02 * torch.randn(1, 1, language_width))

    def forward(self, vision_BNC: Tensor) -> Tensor:
        """(B, N, C) -> (B, Q + 1, D)."""
        return self.forward_intermediates(vision_BNC)[-1]

    def forward_intermediates(self, vision_BNC: Tensor) -> list[Tensor]:
        """Return every layer's queries and the projected output with `vit_eos` appended."""
        states = [self.query_embeds.expand(len(vision_BNC), -1, -1)]
        for layer in self.encoder.layers:
            states.append(layer(states[-1], vision_BNC))
        eos = self.vit_eos.expand(len(vision_BNC), -1, -1)
        return [*states[1:], torch.cat([self.visual_fc(states[-1]), eos], dim=1)]


# --- language model --------------------------------------------------------------------------


class Span(NamedTuple):
    """Consecutive positions of one modality."""

    start: int
    stop: int
    way: int


class KeyValue(NamedTuple):
    """Rotated keys and values of one layer, each (positions, sequences, G, W)."""

    key: Tensor
    value: Tensor


class Rotary(NamedTuple):
    """Cosine and sine of each position's angles, each (L, N or 1, 1, W / 2)."""

    cos: Tensor
    sin: Tensor


def spans_of(*, before: int, image: int, after: int) -> tuple[Span, ...]:
    """Return the spans of text, image and text with these lengths; empty ones are left out."""
    bounds = (0, before, before + image, before + image + after)
    ways = (TEXT, IMAGE, TEXT)
    spans = (Span(bounds[i], bounds[i + 1], ways[i]) for i in range(3))
    return tuple(span for span in spans if span.start < span.stop)


def rotate(x_LNHW: Tensor, rotary: Rotary) -> Tensor:
    """Rotate each pair (i, i + W/2) of channels by its position's angle."""
    first, second = x_LNHW.chunk(2, dim=-1)
    rotated = torch.empty_like(x_LNHW)
    out_first, out_second = rotated.chunk(2, dim=-1)
    torch.mul(first, rotary.cos, out=out_first).addcmul_(second, rotary.sin, value=-1)
    torch.mul(second, rotary.cos, out=out_second).addcmul_(first, rotary.sin)
    return rotated


class RotaryEmbedding(nn.Module):
    """Rotation frequencies, kept in float32 whatever the model's dtype.

    The released state holds one copy per layer; the first one serves all.
    """

    inv_freq: Tensor

    def __init__(self, *, head_width: int, theta: float) -> None:
        super().__init__()
        even = torch.arange(0, head_width, 2, dtype=torch.float32, device="cpu")
        self.register_buffer("inv_freq", 1.0 / theta ** (even / head_width))

    def _apply(self, fn: Any, recurse: bool = True) -> RotaryEmbedding:
        exact = self.inv_freq
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.inv_freq.dtype != exact.dtype:  # half precision would bend late positions
            self.inv_freq = exact.to(self.inv_freq.device)
        return self

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotary:
        """Return the rotary tables, (L, N or 1) positions -> (L, N or 1, 1, W / 2)."""
        angles = positions[:, :, None, None].float() * self.inv_freq
        return Rotary(angles.cos().to(dtype), angles.sin().to(dtype))


class RMSNorm(nn.Module):
    """Root mean square norm."""

    def __init__(self, *, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return F.rms_norm(x, self.weight.shape, None, self.eps).mul_(self.weight)


class TwoWayRMSNorm(nn.Module):
    """One norm with a weight per modality."""

    def __init__(self, *, width: int, eps: float) -> None:
        super().__init__()
        self.multiway = nn.ModuleList(RMSNorm(width=width, eps=eps) for _ in (TEXT, IMAGE))
        self.eps = eps

    def forward(self, x_LND: Tensor, spans: Sequence[Span]) -> Tensor:
        """(L, N, D) -> (L, N, D)."""
        normed = F.rms_norm(x_LND, x_LND.shape[-1:], None, self.eps)
        for start, stop, way in spans:
            one: Any = self.multiway[way]
            normed[start:stop].mul_(one.weight)
        return normed


class TwoWayLinear(nn.Module):
    """A linear layer without bias per modality."""

    def __init__(self, *, width: int, out: int) -> None:
        super().__init__()
        self.multiway = nn.ModuleList(nn.Linear(width, out, bias=False) for _ in (TEXT, IMAGE))

    def forward(self, x_LND: Tensor, spans: Sequence[Span]) -> Tensor:
        """(L, N, D) -> (L, N, out)."""
        parts = [self.multiway[way](x_LND[start:stop]) for start, stop, way in spans]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class LanguageAttention(nn.Module):
    """Causal attention over the past and the present positions."""

    def __init__(self, *, config: LanguageConfig) -> None:
        super().__init__()
        width, key_width = config.hidden_size, config.key_value_heads * config.head_width
        self.head_width = config.head_width
        self.repeats = config.heads // config.key_value_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = TwoWayLinear(width=width, out=key_width)
        self.v_proj = TwoWayLinear(width=width, out=key_width)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.rotary_emb = RotaryEmbedding(head_width=config.head_width, theta=config.rope_theta)

    def _heads(self, x_LND: Tensor) -> Tensor:
        heads_LNHd: Tensor = x_LND.unflatten(2, (-1, self.head_width))
        return heads_LNHd

    def forward(
        self,
        x_LND: Tensor,
        *,
        spans: Sequence[Span],
        rotary: Rotary,
        past: KeyValue | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Return the projected result (L, N, D) and the keys and values of these positions.

        Args:
            past: keys and values of earlier positions, (P, N, G, W); needs `mask`.
            mask: added to the attention logits, (N, 1, L, P + L); None means causal.
        """
        query = rotate(self._heads(self.q_proj(x_LND)), rotary)
        key = rotate(self._heads(self.k_proj(x_LND, spans)), rotary)
        present = KeyValue(key, self._heads(self.v_proj(x_LND, spans)))
        seen = present
        if past is not None:
            seen = KeyValue(*(torch.cat(pair) for pair in zip(past, present, strict=True)))
        if self.repeats > 1:
            seen = KeyValue(*(t.repeat_interleave(self.repeats, dim=2) for t in seen))
        mixed_NHLW = F.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),
            seen.key.permute(1, 2, 0, 3),
            seen.value.permute(1, 2, 0, 3),
            attn_mask=mask,
            is_causal=mask is None,
        )
        return self.o_proj(mixed_NHLW.permute(2, 0, 1, 3).flatten(2)), present


class LanguageFeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, *, config: LanguageConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x_LND: Tensor) -> Tensor:
        """(L, N, D) -> (L, N, D)."""
        gate = F.silu(self.gate_proj(x_LND), inplace=True)
        out_LND: Tensor = self.down_proj(gate.mul_(self.up_proj(x_LND)))
        return out_LND


class LanguageLayer(nn.Module):
    """Pre-norm decoder layer; adds to its input in place (the model is frozen)."""

    def __init__(self, *, config: LanguageConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = LanguageAttention(config=config)
        self.mlp = LanguageFeedForward(config=config)
        self.input_layernorm = TwoWayRMSNorm(width=width, eps=eps)
        self.post_attention_layernorm = TwoWayRMSNorm(width=width, eps=eps)

    def forward(
        self,
        x_LND: Tensor,
        *,
        spans: Sequence[Span],
        rotary: Rotary,
        past: KeyValue | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Return the layer's output, in the same memory, and its keys and values."""
        attended, present = self.self_attn(
            self.input_layernorm(x_LND, spans), spans=spans, rotary=rotary, past=past, mask=mask
        )
        x_LND.add_(attended)
        return x_LND.add_(self.mlp(self.post_attention_layernorm(x_LND, spans))), present


class LanguageModel(nn.Module):
    """Embeddings, decoder layers and the final norm."""

    def __init__(self, *, config: LanguageConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LanguageLayer(config=config) for _ in range(config.layers))
        self.norm = RMSNorm(width=config.hidden_size, eps=config.rms_norm_eps)

    def rotary(self, positions: Tensor) -> Rotary:
        """Return rotary tables for positions of shape (L, N or 1)."""
        first: Any = self.layers[0]
        rotary: Rotary = first.self_attn.rotary_emb(positions, self.embed_tokens.weight.dtype)
        return rotary

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Return the embeddings of token ids, (L, D)."""
        ids_L = torch.tensor(ids, dtype=torch.long, device=self.embed_tokens.weight.device)
        embeddings_LD: Tensor = self.embed_tokens(ids_L)
        return embeddings_LD

    def empty_past(self, *, positions: int, sequences: int) -> KeyValue:
        """Return zero keys and values for one layer."""
        attention: Any = self.layers[0].self_attn
        width = attention.k_proj.multiway[TEXT].out_features
        shape = (positions, sequences, width // attention.head_width, attention.head_width)
        return KeyValue(*(self.embed_tokens.weight.new_zeros(shape) for _ in range(2)))

    def run(
        self,
        x_LND: Tensor,
        *,
        spans: Sequence[Span],
        rotary: Rotary,
        past: Iterable[KeyValue] | None = None,
        mask: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, KeyValue]]:
        """Yield each layer's output and its keys and values.

        All outputs are `x_LND` itself, overwritten by each layer; in the end it holds the
        last one.
        """
        # `past` comes first: it may be a generator that ends exactly with the layers.
        for before, layer in zip(repeat(None) if past is None else past, self.layers, strict=False):
            x_LND, present = layer(x_LND, spans=spans, rotary=rotary, past=before, mask=mask)
            yield x_LND, present


# --- prompts: the text before the image is run once ------------------------------------------


@dataclass(frozen=True)
class TokenizedPrompt:
    """Token ids before and after the image."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Prompts:
    """Everything about K prompts that does not depend on the image.

    The prompts share the length of the text after the image. The texts before it may differ in
    length; they are padded on the left with keys that the mask hides. Of the final states before
    the image only the sum is kept, because the vector asked for is a mean over all positions.

    Attributes:
        past: per layer, keys and values before the image, (P, K, G, W).
        mask: what each position may see, added to the logits, (K, 1, L, P + L).
        rotary: angles of the L positions of each prompt, (L, K, 1, W / 2).
        after: embeddings after the image, (T, K, D).
        before_sum: sum of the final states before the image, (K, D), float32.
        positions: length of each whole prompt, (K, 1, 1), float32.
    """

    past: list[KeyValue]
    mask: Tensor
    rotary: Rotary
    after: Tensor
    before_sum: Tensor
    positions: Tensor


def split_at_image(ids: Sequence[int], *, vocab_size: int) -> TokenizedPrompt:
    """Split token ids at the one image mark.

    Raises:
        UsageError: not exactly one mark, or an id that the model does not have.
    """
    ids = tuple(int(i) for i in ids)
    if (marks := ids.count(IMAGE_TOKEN)) != 1:
        raise UsageError(f"a prompt needs exactly one image mark ({IMAGE_TOKEN}), found {marks}")
    outside = [i for i in ids if i != IMAGE_TOKEN and not 0 <= i < vocab_size]
    if outside:
        raise UsageError(f"token ids {outside[:5]} are outside the vocabulary of {vocab_size}")
    place = ids.index(IMAGE_TOKEN)
    return TokenizedPrompt(before=ids[:place], after=ids[place + 1 :])


def prepare_prompts(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], *, image_positions: int
) -> Prompts:
    """Run the text before the image of prompts whose text after it has one length."""
    weight = model.embed_tokens.weight
    lengths = [len(prompt.before) for prompt in prompts]
    present = image_positions + len(prompts[0].after)
    padded = max(lengths) + -(max(lengths) + present) % _ALIGNMENT
    past = [model.empty_past(positions=padded, sequences=len(prompts)) for _ in model.layers]
    before_sum = torch.zeros(len(prompts), weight.shape[1], device=weight.device)
    for k, prompt in enumerate(prompts):
        if prompt.before:
            before_sum[k] = _run_before_image(past, k, model, prompt.before)
    lengths_K = torch.tensor(lengths, device=weight.device)
    steps_L = torch.arange(present, device=weight.device)
    return Prompts(
        past=past,
        mask=_mask(lengths_K, steps_L, padded=padded, dtype=weight.dtype),
        rotary=model.rotary(lengths_K + steps_L[:, None]),
        after=torch.stack([model.embed(prompt.after) for prompt in prompts], dim=1),
        before_sum=before_sum,
        positions=(lengths_K + present).float()[:, None, None],
    )


def _run_before_image(
    past: list[KeyValue], k: int, model: LanguageModel, ids: Sequence[int]
) -> Tensor:
    """Run `ids`, write their keys and values into column k, return the sum of their states."""
    x_LND = model.embed(ids)[:, None]
    positions = torch.arange(len(ids), device=x_LND.device)[:, None]
    spans = spans_of(before=len(ids), image=0, after=0)
    steps = model.run(x_LND, spans=spans, rotary=model.rotary(positions))
    for column, (_, present) in zip(past, steps, strict=True):
        column.key[-len(ids) :, k] = present.key[:, 0]
        column.value[-len(ids) :, k] = present.value[:, 0]
    total_D: Tensor = model.norm(x_LND).sum(dim=(0, 1), dtype=torch.float32)
    return total_D


def _mask(lengths_K: Tensor, steps_L: Tensor, *, padded: int, dtype: torch.dtype) -> Tensor:
    """Return 0 where a position may look and -inf elsewhere, (K, 1, L, P + L)."""
    keys_S = torch.arange(-padded, len(steps_L), device=steps_L.device)
    causal_LS = keys_S <= steps_L[:, None]
    real_K1S = keys_S >= -lengths_K[:, None, None]
    visible = (causal_LS & real_K1S)[:, None]
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
        ~visible, float("-inf")
    )


def pool_states(model: LanguageModel, prompts: Prompts, image_IBD: Tensor) -> Tensor:
    """Return the mean of the final states over all positions, (K, B, D), float32."""
    images, count = image_IBD.shape[1], len(prompts.before_sum)
    shown = image_IBD[:, None].expand(-1, count, -1, -1)
    after = prompts.after[:, :, None].expand(-1, -1, images, -1)
    x_LND = torch.cat([shown, after]).flatten(1, 2)
    spans = spans_of(before=0, image=len(shown), after=len(after))
    rotary = Rotary(*(table.repeat_interleave(images, dim=1) for table in prompts.rotary))
    mask = prompts.mask.repeat_interleave(images, dim=0)
    past = _repeated(prompts.past, images)
    for _ in model.run(x_LND, spans=spans, rotary=rotary, past=past, mask=mask):
        pass
    present_sum = model.norm(x_LND).sum(dim=0, dtype=torch.float32).unflatten(0, (count, images))
    mean: Tensor = (present_sum + prompts.before_sum[:, None]) / prompts.positions
    return mean


def _repeated(past: Sequence[KeyValue], images: int) -> Iterator[KeyValue]:
    """Yield each layer's past once per image, one layer at a time to save memory."""
    for layer in past:
        yield KeyValue(*(t.repeat_interleave(images, dim=1) for t in layer))


# --- the whole model -------------------------------------------------------------------------


class ImageLanguageModel(LanguageModel):
    """The language model, the vision tower and the abstractor, under the released names."""

    def __init__(self, *, config: MPLUGOwl2Config) -> None:
        super().__init__(config=config.language)
        self.vision_model = VisionModel(config=config.vision)
        self.visual_abstractor = VisualAbstractor(
            config=config.abstractor,
            grid=config.vision.grid,
            language_width=config.language.hidden_size,
        )


class MPLUGOwl2(nn.Module):
    """The whole model: always in eval mode, without gradients."""

    def __init__(self, *, config: MPLUGOwl2Config) -> None:
        super().__init__()
        self.config = config
        self.model = ImageLanguageModel(config=config)
        language = config.language
        self.lm_head = nn.Linear(language.hidden_size, language.vocab_size, bias=False)
        self._prompts: OrderedDict[object, Prompts] = OrderedDict()
        super().requires_grad_(False)
        super().train(False)

    @property
    def width(self) -> int:
        """D, the length of one vector."""
        return self.config.language.hidden_size

    @property
    def image_positions(self) -> int:
        """Positions one image takes in the prompt: the queries and the end mark."""
        return self.config.abstractor.queries + 1

    @torch.no_grad()
    def pooled(
        self,
        pixel_values: Tensor,
        token_ids: Sequence[Sequence[int]],
        *,
        schedule: Schedule = "cached",
    ) -> Tensor:
        """Return the vectors of B images for K questions, (B, K, D), float32.

        Args:
            pixel_values: normalised images, (B, 3, S, S); cast to the model's dtype.
            token_ids: K prompts, each with one -200 where the image goes.
            schedule: "cached", or "official" for the order of the official script.

        Raises:
            UsageError: a wrong image shape, prompt or schedule.
        """
        prompts = [self._split(ids) for ids in token_ids]
        pixel_values = self._pixels(pixel_values)
        if not prompts or not len(pixel_values):
            return torch.zeros(
                len(pixel_values), len(prompts), self.width, device=pixel_values.device
            )
        if schedule == "official":
            states = [self.last_hidden(pixel_values, ids) for ids in token_ids]
            return torch.stack([x_BLD.float().mean(dim=1) for x_BLD in states], dim=1)
        if schedule != "cached":
            raise UsageError(f"unknown schedule {schedule!r}: use 'cached' or 'official'")
        return self._pooled_cached(pixel_values, prompts)

    def _pooled_cached(self, pixel_values: Tensor, prompts: list[TokenizedPrompt]) -> Tensor:
        image_IBD = self._image_vectors(pixel_values)
        same_length = defaultdict(list)  # prompts of one group run as one batch
        for k, prompt in enumerate(prompts):
            same_length[len(prompt.after)].append(k)
        vectors: dict[int, Tensor] = {}
        for members in same_length.values():
            group = tuple(prompts[k] for k in members)
            vectors_KBD = pool_states(self.model, self._kept_prompts(group), image_IBD)
            vectors |= zip(members, vectors_KBD, strict=True)
        return torch.stack([vectors[k] for k in range(len(prompts))], dim=1)

    @torch.no_grad()
    def last_hidden(self, pixel_values: Tensor, ids: Sequence[int]) -> Tensor:
        """Return the normalised final states of one whole prompt, (B, L, D)."""
        prompt = self._split(ids)
        *_, x_LBD = self._run_prompt(self._image_vectors(self._pixels(pixel_values)), prompt)
        hidden_BLD: Tensor = self.model.norm(x_LBD).transpose(0, 1)
        return hidden_BLD

    @torch.no_grad()
    def forward_intermediates(
        self, pixel_values: Tensor, ids: Sequence[int]
    ) -> dict[str, list[Tensor]]:
        """Return every stage of one prompt in the official order, for comparison with other code.

        Returns:
            "vision": embeddings, each layer's output, normalised output; each (B, N, C).
            "abstractor": each layer's queries (B, Q, C), then the image's vectors (B, I, D).
            "language": embedded prompt, each layer's output, normalised output; each (B, L, D).
        """
        vision = self.model.vision_model.forward_intermediates(self._pixels(pixel_values))
        abstractor = self.model.visual_abstractor.forward_intermediates(vision[-1])
        steps = self._run_prompt(abstractor[-1].transpose(0, 1), self._split(ids))
        language = [x_LBD.transpose(0, 1).clone() for x_LBD in steps]
        language.append(self.model.norm(language[-1]))
        return {"vision": vision, "abstractor": abstractor, "language": language}

    def _image_vectors(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (I, B, D)."""
        tokens = self.model.vision_model(pixel_values)
        tokens_IBD: Tensor = self.model.visual_abstractor(tokens).transpose(0, 1)
        return tokens_IBD

    def _run_prompt(self, image_IBD: Tensor, prompt: TokenizedPrompt) -> Iterator[Tensor]:
        """Yield the embedded prompt and each layer's output, (L, B, D) in one memory."""
        images = image_IBD.shape[1]
        before, after = (
            self.model.embed(ids)[:, None].expand(-1, images, -1)
            for ids in (prompt.before, prompt.after)
        )
        x_LBD = torch.cat([before, image_IBD, after])
        yield x_LBD
        rotary = self.model.rotary(torch.arange(len(x_LBD), device=x_LBD.device)[:, None])
        spans = spans_of(before=len(before), image=len(image_IBD), after=len(after))
        for state, _ in self.model.run(x_LBD, spans=spans, rotary=rotary):
            yield state

    def _kept_prompts(self, group: tuple[TokenizedPrompt, ...]) -> Prompts:
        """Return the kept state of these prompts, computed anew when weights have changed."""
        language = self.model
        weights: list[Tensor] = [*language.layers.parameters(), *language.norm.parameters()]
        weights.append(language.embed_tokens.weight)
        versions = tuple((w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights)
        key = (group, versions)
        prompts = self._prompts.get(key)
        if prompts is None:
            prompts = prepare_prompts(self.model, group, image_positions=self.image_positions)
            self._prompts[key] = prompts
            while len(self._prompts) > _PROMPTS_KEPT:
                self._prompts.popitem(last=False)
        return prompts

    def _split(self, ids: Sequence[int]) -> TokenizedPrompt:
        language = self.config.language
        prompt = split_at_image(ids, vocab_size=language.vocab_size)
        if (positions := len(ids) - 1 + self.image_positions) > language.max_positions:
            raise UsageError(
                f"a prompt of {positions} positions exceeds the model's {language.max_positions}",
                remedy="shorten the question",
            )
        return prompt

    def _pixels(self, pixel_values: Tensor) -> Tensor:
        side = self.config.vision.image_size
        if tuple(pixel_values.shape[1:]) != (3, side, side):
            raise UsageError(
                f"expected images of shape (B, 3, {side}, {side}), got {tuple(pixel_values.shape)}"
            )
        return pixel_values.to(self.lm_head.weight)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> MPLUGOwl2:
        self._prompts.clear()  # of another device or dtype; a pointer may be handed out again
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def train(self, mode: bool = True) -> MPLUGOwl2:
        """Do nothing: the model is frozen in eval mode, also inside a module that trains."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> MPLUGOwl2:
        """Refuse to turn gradients on."""
        if requires_grad:
            raise UsageError("mPLUG-Owl2 is frozen here: its weights take no gradients")
        return self
