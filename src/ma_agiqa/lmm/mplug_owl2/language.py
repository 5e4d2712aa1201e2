"""Language model of mPLUG-Owl2: LLaMA-2 whose norms, keys and values know two modalities.

Source: mplug_owl2/model/modeling_llama2.py and multiway.py. `k_proj`, `v_proj` and the two
norms of a layer exist twice, way 0 for text and way 1 for image positions (`vit_eos` counts
as image); everything else is shared. Positions of one modality are consecutive, so a way is
a slice: no position is ever computed by both ways.
Kept from the official code: cos and sin are rounded to the model's dtype, the normalised
state is rounded before it is weighed.
Not here: dropout, rope scaling, tensor parallelism, padding. Fewer key/value heads than
heads work here; the official code crashes on them.

States are position-major, (L, N, D), so that a slice of positions is contiguous memory.
Shapes: L positions, N sequences, D width, H heads, G key/value heads, W head width,
P positions of the past, S = P + L.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ma_agiqa.lmm.mplug_owl2.configuration import LanguageConfig

TEXT, IMAGE = 0, 1


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
        super()._apply(fn, recurse)
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


class Attention(nn.Module):
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
        return x_LND.unflatten(2, (-1, self.head_width))

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
            mask: added to the attention logits, (N, 1, L, S); None means causal.
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


class FeedForward(nn.Module):
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
        return self.down_proj(gate.mul_(self.up_proj(x_LND)))


class Layer(nn.Module):
    """Pre-norm decoder layer; adds to its input in place (the model is frozen)."""

    def __init__(self, *, config: LanguageConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config=config)
        self.mlp = FeedForward(config=config)
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
        self.layers = nn.ModuleList(Layer(config=config) for _ in range(config.layers))
        self.norm = RMSNorm(width=config.hidden_size, eps=config.rms_norm_eps)

    def rotary(self, positions: Tensor) -> Rotary:
        """Return rotary tables for positions of shape (L, N or 1)."""
        first: Any = self.layers[0]
        return first.self_attn.rotary_emb(positions, self.embed_tokens.weight.dtype)

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Return the embeddings of token ids, (L, D)."""
        device = self.embed_tokens.weight.device
        return self.embed_tokens(torch.tensor(ids, dtype=torch.long, device=device))

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
