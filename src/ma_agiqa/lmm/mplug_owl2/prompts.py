"""What a prompt costs before any image is seen: computed once, used for every image.

The language model is causal and the image comes after the question, so the positions before
the image are the same for every image. Their keys and values are kept per layer, and of
their final states only the sum, because the vector asked for is a mean over all positions.
For each image only the image positions and the few after them remain.

Prompts of one `Prompts` share the length of the text after the image; the texts before it
may differ and are padded on the left with keys that the mask hides.

Shapes: K prompts, B images, I image positions, T text positions after the image, L = I + T,
P padded positions before the image, S = P + L, D width, G key/value heads, W head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ma_agiqa.errors import UsageError
from ma_agiqa.lmm.mplug_owl2.language import KeyValue, LanguageModel, Rotary, spans_of

IMAGE_TOKEN = -200
_ALIGNMENT = 16  # attention kernels copy a mask at every call unless S is a multiple of this


@dataclass(frozen=True)
class TokenizedPrompt:
    """Token ids before and after the image."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Prompts:
    """Everything about K prompts that does not depend on the image.

    Attributes:
        past: per layer, keys and values before the image, (P, K, G, W).
        mask: what each position may see, added to the logits, (K, 1, L, S).
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


def prepare(
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
            before_sum[k] = _fill(past, k, model, prompt.before)
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


def _fill(past: list[KeyValue], k: int, model: LanguageModel, ids: Sequence[int]) -> Tensor:
    """Run `ids`, write their keys and values into column k, return the sum of their states."""
    x_LND = model.embed(ids)[:, None]
    positions = torch.arange(len(ids), device=x_LND.device)[:, None]
    spans = spans_of(before=len(ids), image=0, after=0)
    steps = model.run(x_LND, spans=spans, rotary=model.rotary(positions))
    for column, (_, present) in zip(past, steps, strict=True):
        column.key[-len(ids) :, k] = present.key[:, 0]
        column.value[-len(ids) :, k] = present.value[:, 0]
    return model.norm(x_LND).sum(dim=(0, 1), dtype=torch.float32)


def _mask(lengths_K: Tensor, steps_L: Tensor, *, padded: int, dtype: torch.dtype) -> Tensor:
    """Return 0 where a position may look and -inf elsewhere, (K, 1, L, S)."""
    keys_S = torch.arange(-padded, len(steps_L), device=steps_L.device)
    causal_LS = keys_S <= steps_L[:, None]
    real_K1S = keys_S >= -lengths_K[:, None, None]
    visible = (causal_LS & real_K1S)[:, None]
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
        ~visible, float("-inf")
    )


def pooled(model: LanguageModel, prompts: Prompts, image_IBD: Tensor) -> Tensor:
    """Mean of the final states over all positions, (K, B, D), float32."""
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
    return (present_sum + prompts.before_sum[:, None]) / prompts.positions


def _repeated(past: Sequence[KeyValue], images: int) -> Iterator[KeyValue]:
    """Yield each layer's past once per image, one layer at a time to save memory."""
    for layer in past:
        yield KeyValue(*(t.repeat_interleave(images, dim=1) for t in layer))
