"""Any image-and-text model of transformers as a `SemanticEncoder`.

What `AutoModelForImageTextToText` loads and what has a chat template: LLaVA, Qwen-VL, InternVL,
SmolVLM, Gemma 3 and their like. The prompt is the
model's own template with one user turn, the question and then the image, as in the paper;
templates that put images first do so here too.

Vectors are means of the base model's states (`pooling.py`), without the language head. An
image is never padded to fit others: images whose inputs have the same shapes go through
together, others by themselves, so no vector depends on its batch beyond rounding. The vision
tower sees an image once for all questions where the family's forward takes its output
(`mm_encoder_outputs`); where it does not, once per question.

Shapes: B images, K questions, L positions, D width.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from ma_agiqa.errors import ImageError, ModelError, UsageError
from ma_agiqa.experts.questions import Question
from ma_agiqa.experts.semantic import DeferredEncoder, fingerprint_of
from ma_agiqa.lmm import pretrained, published, quantisation
from ma_agiqa.lmm.anatomy import (
    image_token_of,
    layers_of,
    resolve_layer,
    shared_vision_inputs,
    template_of,
    width_of,
)
from ma_agiqa.lmm.dtypes import DTYPES, check_dtype
from ma_agiqa.lmm.mplug_owl2.checkpoint import fingerprint as fingerprint_of_weights
from ma_agiqa.lmm.pooling import check_pool, mean_over, positions
from ma_agiqa.types import RGB

if TYPE_CHECKING:
    from ma_agiqa.experts.semantic import SemanticEncoder

AUTO_CLASS = "AutoModelForImageTextToText"
LAYOUT = "user: question, image; generation prompt"

NONE = -1
"""No token has this id."""

Inputs = dict[str, Tensor]


class TransformersEncoder:
    """A frozen model with its processor.

    Args:
        model: an image-and-text model of transformers, in eval mode.
        processor: its own, with a chat template.
        parts: everything vectors depend on besides image and question.
        layer: 0 for the embeddings, n for the output of the n-th layer; the last one is
            taken after the final norm.
        pool: which positions are averaged; see `pooling`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        processor: Any,
        parts: Mapping[str, Any],
        layer: int,
        pool: str,
    ) -> None:
        check_pool(pool)
        config: Any = model.config
        self.parts = dict(parts)
        self.width = width_of(config)
        self._processor, self._layer, self._pool = processor, layer, pool
        self._is_last = layer == layers_of(config)
        # The model without its language head, so that no logits are computed; where a family
        # has no such part, the whole model with logits of one position.
        self._base: Any = getattr(model, "base_model", model)
        self._whole = self._base is model
        self._device = next(model.parameters()).device
        self._dtype = DTYPES_BY_TEXT[parts["dtype"]]
        token = image_token_of(config)
        self._image_token = NONE if token is None else token
        parameters = inspect.signature(self._base.forward).parameters
        self._accepted = set(parameters)
        self._takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._vision = shared_vision_inputs(self._base, self._accepted)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of `parts`."""
        return fingerprint_of(self.parts)

    @torch.inference_mode()
    def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
        """Return (B, K, D), float32, on the model's device.

        Raises:
            ImageError: an image that the model's preprocessing refuses.
            UsageError: a question that holds one of the model's marks.
        """
        vectors = torch.zeros(len(images), len(questions), self.width, device=self._device)
        if not len(images) or not questions:
            return vectors
        alike: dict[object, list[int]] = defaultdict(list)
        asked = [[self._inputs(image, question) for question in questions] for image in images]
        for i, inputs in enumerate(asked):
            alike[tuple(map(_shapes, inputs))].append(i)
        for members in alike.values():
            batches = [_joined([asked[i][k] for i in members]) for k in range(len(questions))]
            vectors[members] = self._pooled(batches)
        return vectors

    def _pooled(self, batches: Sequence[Inputs]) -> Tensor:
        """Return the vectors of images that fit together; one batch per question, (B, K, D)."""
        batches = [{name: self._placed(t) for name, t in batch.items()} for batch in batches]
        seen: dict[str, Any] = {}
        if self._vision:
            own = {name: batches[0][name] for name in self._vision if name in batches[0]}
            features = self._base.get_image_features(**own, return_dict=True)
            seen = {"mm_encoder_outputs": {"image": features}}
            drop = ("pixel_values", "pixel_attention_mask")
            batches = [{n: t for n, t in batch.items() if n not in drop} for batch in batches]
        return torch.stack([self._means(batch, seen) for batch in batches], dim=1)

    def _means(self, batch: Inputs, seen: Mapping[str, Any]) -> Tensor:
        inputs = {n: t for n, t in batch.items() if self._takes_more or n in self._accepted}
        needs_all = self._whole or not self._is_last
        head = {"logits_to_keep": 1} if "logits_to_keep" in self._accepted else {}
        outputs = self._base(
            **inputs,
            **seen,
            **head,
            output_hidden_states=needs_all,
            use_cache=False,
            return_dict=True,
        )
        states = outputs.hidden_states[self._layer] if needs_all else outputs.last_hidden_state
        if states.shape[-1] != self.width:
            raise ModelError(f"its states are {states.shape[-1]} wide, expected {self.width}")
        chosen = positions(
            self._pool,
            present_BL=batch["attention_mask"].bool(),
            image_BL=torch.eq(batch["input_ids"], self._image_token),
        )
        return mean_over(states, chosen)

    def _inputs(self, image: RGB, question: Question) -> Inputs:
        """Return what the model wants for one image and question, a batch of one."""
        self._check_question(question)
        content = [
            {"type": "text", "text": question.text},
            {"type": "image", "image": Image.fromarray(image)},
        ]
        try:
            inputs = self._processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        except (ValueError, ZeroDivisionError) as error:
            raise ImageError(f"the model's preprocessing refuses it: {error}") from error
        return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}

    def _check_question(self, question: Question) -> None:
        marks = {*self._processor.tokenizer.all_special_tokens}
        marks.add(str(getattr(self._processor, "image_token", "")))
        found = sorted(mark for mark in marks if mark and mark in question.text)
        if found:
            raise UsageError(
                f"question {question.name!r} contains {', '.join(found)}, a mark of this model",
                remedy="write the question alone; the template adds the image",
            )

    def _placed(self, tensor: Tensor) -> Tensor:
        dtype = self._dtype if tensor.is_floating_point() else None
        return tensor.to(device=self._device, dtype=dtype)


DTYPES_BY_TEXT = {str(dtype): dtype for dtype in DTYPES.values()}


def deferred(
    source: str | Path,
    *,
    device: torch.device,
    dtype: str,
    layer: int = -1,
    pool: str = "all",
    load_in: int | None = None,
    revision: str | None = None,
) -> DeferredEncoder:
    """Describe a model from its files in seconds; weights are read at the first image.

    Raises:
        ModelError: a file is missing, damaged, or the model is of no use here.
        UsageError: an unknown dtype, layer or pool, or quantisation that is not possible here.
        MissingExtraError: transformers or bitsandbytes is not installed.
    """
    check_dtype(dtype)
    check_pool(pool)
    pretrained.require_transformers()
    quantisation.check(load_in, device=device)
    directory = published.locate(source, revision=revision)
    config = pretrained.read_config(directory)
    pretrained.require_kind(config, directory)
    processor = pretrained.read_processor(directory)
    template = template_of(processor, directory)
    if pool in ("image", "text") and image_token_of(config) is None:
        raise UsageError(
            f"{config.model_type} does not say which positions are the image's",
            remedy="--pool all or --pool last",
        )
    chosen = resolve_layer(layer, layers=layers_of(config))
    parts = {
        "encoder": f"{config.model_type} of transformers",
        "weights": fingerprint_of_weights(pretrained.open_weights(directory)),
        "dtype": str(DTYPES[dtype]),
        "load_in": load_in,
        "processor": published.fingerprint_of_small_files(directory),
        "image_processor": type(processor.image_processor).__name__,
        "template": hashlib.sha256(template.encode()).hexdigest()[:16],
        "layout": LAYOUT,
        "layer": chosen,
        "pool": pool,
    }

    def load() -> TransformersEncoder:
        model = pretrained.load_model(
            directory, AUTO_CLASS, device=device, dtype=DTYPES[dtype], load_in=load_in
        )
        return TransformersEncoder(
            model=model, processor=processor, parts=parts, layer=chosen, pool=pool
        )

    return DeferredEncoder(parts=parts, width=width_of(config), load=load)


def _shapes(inputs: Inputs) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, tuple(tensor.shape)) for name, tensor in inputs.items()))


def _joined(inputs: Sequence[Inputs]) -> Inputs:
    return {name: torch.cat([one[name] for one in inputs]) for name in inputs[0]}


if TYPE_CHECKING:  # the type checker holds the encoder to the protocol
    _checked: type[SemanticEncoder] = TransformersEncoder
