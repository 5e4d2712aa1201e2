"""The released `config.json` of mPLUG-Owl2, reduced to what changes the computation.

Source: mplug_owl2/model/configuration_mplug_owl2.py (defaults) and the checkpoint's own
`config.json` (values). The file is written by another library and full of its keys, so
unknown keys are ignored; a size or epsilon that is missing is an error, because guessing
one (`rms_norm_eps` is 1e-6 in the code and 1e-5 in LLaMA-2) changes every vector silently.
Settings this implementation does not have are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from ma_agiqa.errors import ModelError

T = TypeVar("T", int, float)


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


_REQUIRED_SETTINGS: dict[str, dict[str, object]] = {
    "": {
        "hidden_act": "silu",
        "rope_scaling": None,
        "attention_bias": False,
        "tie_word_embeddings": False,
    },
    "visual_config.visual_model": {
        "hidden_act": "quick_gelu",
        "num_channels": 3,
        "use_cls_token": True,
        "use_post_layernorm": True,
    },
    "visual_config.visual_abstractor": {"use_cls_token": True, "add_v2t_pos_emb": False},
}


class _Section:
    """One mapping of the file, read key by key with errors that say where."""

    def __init__(self, data: object, where: str, source: str) -> None:
        self.where, self.source = where, source
        if not isinstance(data, Mapping):
            raise self.error(f"expected a mapping, found {type(data).__name__}")
        self.data = cast("Mapping[str, Any]", data)
        for key, supported in _REQUIRED_SETTINGS[where].items():
            if self.data.get(key, supported) != supported:
                raise self.error(f"{key} = {self.data[key]!r} is not supported, only {supported!r}")

    def error(self, reason: str) -> ModelError:
        place = f"{self.where}: " if self.where else ""
        return ModelError(
            place + reason,
            path=self.source,
            remedy="this is not the config.json of an mPLUG-Owl2 checkpoint",
        )

    def part(self, key: str) -> object:
        if key not in self.data:
            raise self.error(f"lacks {key}")
        return self.data[key]

    def positive(self, key: str, kind: type[T], default: T | None = None) -> T:
        value: Any = self.part(key) if default is None else self.data.get(key)
        if value is None:  # absent or `"num_key_value_heads": null`
            value = default
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or value <= 0 or (kind is int and not isinstance(value, int)):
            raise self.error(f"{key} must be a positive {kind.__name__}, found {value!r}")
        return kind(value)

    def divisible(self, what: str, whole: int, by: str, part: int) -> None:
        if whole % part:
            raise self.error(f"{what} = {whole} is not divisible by {by} = {part}")


def parse_config(config: Mapping[str, Any], *, source: str = "config.json") -> MPLUGOwl2Config:
    """Read the released `config.json` mapping.

    Args:
        source: where the mapping came from; stands in errors.

    Raises:
        ModelError: a key is missing or of the wrong kind, sizes do not fit together, or a
            setting is not supported.
    """
    top = _Section(config, "", source)
    visual = top.part("visual_config")
    if not isinstance(visual, Mapping):
        raise top.error(f"visual_config must be a mapping, found {visual!r}")
    vision = _vision(visual.get("visual_model"), source)
    abstractor = _abstractor(visual.get("visual_abstractor"), source, vision)
    return MPLUGOwl2Config(vision=vision, abstractor=abstractor, language=_language(top))


def _vision(data: object, source: str) -> VisionConfig:
    section = _Section(data, "visual_config.visual_model", source)
    vision = VisionConfig(
        hidden_size=section.positive("hidden_size", int),
        intermediate_size=section.positive("intermediate_size", int),
        layers=section.positive("num_hidden_layers", int),
        heads=section.positive("num_attention_heads", int),
        image_size=section.positive("image_size", int),
        patch_size=section.positive("patch_size", int),
        layer_norm_eps=section.positive("layer_norm_eps", float),
    )
    section.divisible("hidden_size", vision.hidden_size, "num_attention_heads", vision.heads)
    section.divisible("image_size", vision.image_size, "patch_size", vision.patch_size)
    return vision


def _abstractor(data: object, source: str, vision: VisionConfig) -> AbstractorConfig:
    section = _Section(data, "visual_config.visual_abstractor", source)
    abstractor = AbstractorConfig(
        hidden_size=section.positive("hidden_size", int),
        intermediate_size=section.positive("intermediate_size", int),
        layers=section.positive("num_hidden_layers", int),
        heads=section.positive("num_attention_heads", int),
        queries=section.positive("num_learnable_queries", int),
        layer_norm_eps=section.positive("layer_norm_eps", float),
    )
    section.divisible(
        "hidden_size", abstractor.hidden_size, "num_attention_heads", abstractor.heads
    )
    section.divisible("hidden_size", abstractor.hidden_size, "4 (sin-cos tables)", 4)
    grid, width = section.positive("grid_size", int), section.positive("encoder_hidden_size", int)
    if grid != vision.grid:
        raise section.error(f"grid_size = {grid}, but the vision model has {vision.grid} patches")
    if not width == vision.hidden_size == abstractor.hidden_size:
        # The official code concatenates queries and vision tokens, so they share one width.
        raise section.error(
            f"encoder_hidden_size = {width} and hidden_size = {abstractor.hidden_size} must "
            f"equal the vision model's {vision.hidden_size}"
        )
    return abstractor


def _language(section: _Section) -> LanguageConfig:
    heads = section.positive("num_attention_heads", int)
    language = LanguageConfig(
        vocab_size=section.positive("vocab_size", int),
        hidden_size=section.positive("hidden_size", int),
        intermediate_size=section.positive("intermediate_size", int),
        layers=section.positive("num_hidden_layers", int),
        heads=heads,
        key_value_heads=section.positive("num_key_value_heads", int, heads),
        max_positions=section.positive("max_position_embeddings", int),
        rms_norm_eps=section.positive("rms_norm_eps", float),
        rope_theta=section.positive("rope_theta", float, 10000.0),
    )
    section.divisible("hidden_size", language.hidden_size, "twice the heads", 2 * heads)
    section.divisible("num_attention_heads", heads, "key/value heads", language.key_value_heads)
    return language
