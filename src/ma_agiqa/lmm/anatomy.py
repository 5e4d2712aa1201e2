"""What a model of transformers says about itself: width, layers, image token, template.

Everything is read from its configuration, its processor or a signature; no family is known by
name here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ma_agiqa.errors import ModelError, UsageError


def width_of(config: Any) -> int:
    """Return D, the width of the language model."""
    return int(config.get_text_config().hidden_size)


def layers_of(config: Any) -> int:
    """Return how many layers the language model has."""
    return int(config.get_text_config().num_hidden_layers)


def image_token_of(config: Any) -> int | None:
    """Return the id that marks an image's positions; None if the configuration has none."""
    for name in ("image_token_id", "image_token_index"):
        if isinstance(found := getattr(config, name, None), int):
            return found
    return None


def resolve_layer(layer: int, *, layers: int) -> int:
    """Count a layer from the front: -1 is the last of `layers`, 0 the embeddings.

    Raises:
        UsageError: the model has no such layer.
    """
    if not -layers - 1 <= layer <= layers:
        raise UsageError(
            f"layer {layer} is not there: this model has 0 (embeddings) to {layers}, or -1 to "
            f"-{layers + 1} from the end"
        )
    return layer if layer >= 0 else layers + 1 + layer


def template_of(processor: Any, directory: Path) -> str:
    """Return the chat template.

    Raises:
        ModelError: there is none.
    """
    template = processor.chat_template or getattr(processor.tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        template = template.get("default")
    if not isinstance(template, str):
        raise ModelError(
            "has no chat template, so it is not known how to ask it",
            path=directory,
            remedy="take the instruction-tuned version, or put a chat_template.jinja beside its "
            "config.json",
        )
    return template


def shared_vision_inputs(base: Any, accepted: set[str]) -> tuple[str, ...]:
    """Return which inputs its vision tower takes; none if forward takes no features."""
    if "mm_encoder_outputs" not in accepted or not hasattr(base, "get_image_features"):
        return ()
    return tuple(sorted({*inspect.signature(base.get_image_features).parameters} - {"kwargs"}))
