"""mPLUG-Owl2 as a frozen reader of images: one vector per image and question.

Source: mplug_owl2/model/modeling_mplug_owl2.py; the pooling is MA-AGIQA's getFeature.py: the
mean over *all* positions (BOS, text, image, text) of the last hidden state after its norm.
Parameter names and shapes are the released ones; `lm_head` is loaded because a checkpoint
has it, and used by `logits` alone.

Two schedules give the same vectors. "official" runs the whole prompt, vision included, once
per question. "cached" looks at each image once and runs the text before the image once per
question and lifetime of the weights (`prompts.py`).
Kept from the official code: no padding mask, positions counted over the merged sequence.
Not here: generation, several images per prompt, training.

Shapes: B images, K questions, I image positions, L positions, S pixels, D width.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ma_agiqa.errors import UsageError
from ma_agiqa.lmm.mplug_owl2.abstractor import VisualAbstractor
from ma_agiqa.lmm.mplug_owl2.configuration import MPLUGOwl2Config
from ma_agiqa.lmm.mplug_owl2.language import LanguageModel, spans_of
from ma_agiqa.lmm.mplug_owl2.prompts import (
    Prompts,
    TokenizedPrompt,
    pooled,
    prepare,
    split_at_image,
)
from ma_agiqa.lmm.mplug_owl2.vision import VisionModel

Schedule = Literal["cached", "official"]
_PROMPTS_KEPT = 8  # sets of questions; a set of two takes 43 MB in the released model


@dataclass(frozen=True)
class Intermediates:
    """Every stage of one prompt, batch first; for comparison with other implementations.

    Attributes:
        vision: embeddings, each layer's output, normalised output; each (B, N, C).
        abstractor: each layer's queries (B, Q, C), then the image's vectors (B, I, D).
        inputs_embeds: text and image vectors in order, (B, L, D).
        layers: each decoder layer's output before the final norm, (B, L, D).
        last_hidden: the last of them after the norm.
    """

    vision: list[Tensor]
    abstractor: list[Tensor]
    inputs_embeds: Tensor
    layers: list[Tensor]
    last_hidden: Tensor


class ImageLanguageModel(LanguageModel):
    """The language model with its eyes, under the released names."""

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
        prompts = [self._checked(ids) for ids in token_ids]
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
        image_IBD = self._look(pixel_values)
        same_length = defaultdict(list)  # prompts of one group run as one batch
        for k, prompt in enumerate(prompts):
            same_length[len(prompt.after)].append(k)
        vectors: dict[int, Tensor] = {}
        for members in same_length.values():
            group = tuple(prompts[k] for k in members)
            vectors_KBD = pooled(self.model, self._prepared(group), image_IBD)
            vectors |= zip(members, vectors_KBD, strict=True)
        return torch.stack([vectors[k] for k in range(len(prompts))], dim=1)

    @torch.no_grad()
    def last_hidden(self, pixel_values: Tensor, ids: Sequence[int]) -> Tensor:
        """Return the normalised final states of one whole prompt, (B, L, D)."""
        prompt = self._checked(ids)
        *_, x_LBD = self._whole(self._look(self._pixels(pixel_values)), prompt)
        return self.model.norm(x_LBD).transpose(0, 1)

    @torch.no_grad()
    def logits(self, last_hidden: Tensor) -> Tensor:
        """Return next-token logits, (..., D) -> (..., vocabulary)."""
        return self.lm_head(last_hidden)

    @torch.no_grad()
    def intermediates(self, pixel_values: Tensor, ids: Sequence[int]) -> Intermediates:
        """Return every stage of one prompt, computed in the official order."""
        vision = self.model.vision_model.intermediates(self._pixels(pixel_values))
        abstractor = self.model.visual_abstractor.intermediates(vision[-1])
        steps = self._whole(abstractor[-1].transpose(0, 1), self._checked(ids))
        embeds, *layers = (x_LBD.transpose(0, 1).clone() for x_LBD in steps)
        last_hidden = self.model.norm(layers[-1])
        return Intermediates(vision, abstractor, embeds, layers, last_hidden)

    def _look(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (I, B, D)."""
        tokens = self.model.vision_model(pixel_values)
        return self.model.visual_abstractor(tokens).transpose(0, 1)

    def _whole(self, image_IBD: Tensor, prompt: TokenizedPrompt) -> Iterator[Tensor]:
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

    def _prepared(self, group: tuple[TokenizedPrompt, ...]) -> Prompts:
        """Return the kept state of these prompts, computed anew when weights have changed."""
        language = self.model
        weights: list[Tensor] = [*language.layers.parameters(), *language.norm.parameters()]
        weights.append(language.embed_tokens.weight)
        versions = tuple((w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights)
        key = (group, versions)
        prompts = self._prompts.get(key)
        if prompts is None:
            prompts = prepare(self.model, group, image_positions=self.image_positions)
            self._prompts[key] = prompts
            while len(self._prompts) > _PROMPTS_KEPT:
                self._prompts.popitem(last=False)
        return prompts

    def _checked(self, ids: Sequence[int]) -> TokenizedPrompt:
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
        super()._apply(fn, recurse)
        return self

    def train(self, mode: bool = True) -> MPLUGOwl2:
        """Do nothing: the model is frozen in eval mode, also inside a module that trains."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> MPLUGOwl2:
        """Refuse to turn gradients on."""
        if requires_grad:
            raise UsageError("mPLUG-Owl2 is frozen here: its weights take no gradients")
        return self
