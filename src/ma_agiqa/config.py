"""What travels with weights: architecture, preprocessing, scale, training set, versions.

`config.json` of a model directory is this and nothing else. Reading is strict: an unknown
or missing key is an error, so a file of a newer version is refused instead of half read.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ma_agiqa.errors import ModelError
from ma_agiqa.types import Scale

FORMAT_VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Preprocess:
    """How an RGB image becomes the network's input tensor; see `models/preprocess.py`.

    Attributes:
        kind: name in the table of `models/preprocess.py`.
        min_side: images with a shorter side below this many pixels are refused.
        max_pixels: larger images are reduced to this area; 0 means the kind fixes the size.
    """

    kind: str
    min_side: int = 1
    max_pixels: int = 0


@dataclass(frozen=True)
class TrainedOn:
    """Which human scores a model has seen.

    Attributes:
        dataset, target, split: names in the data registry; the part is always `train`.
        images: how many images it was trained on.
        score_quantiles: the 0th, 1st, ... 100th percentile of their human scores.
    """

    dataset: str
    target: str
    split: str
    images: int
    score_quantiles: tuple[float, ...]


@dataclass(frozen=True)
class ModelConfig:
    """Everything about a model except its weights.

    Attributes:
        name: what results call the model.
        architecture: name in the table of `models/checkpoint.py`.
        network: keyword arguments of that architecture's constructor.
        questions: name -> text and fingerprint of each question whose vectors the model
            takes, in order; empty for a model without semantics.
        encoder: identity of the encoder whose vectors it was trained on, see
            `lmm/encoder.py`; empty where that is not known.
        training: what else there is to know of its training: the model it started from, the
            other data sets and how the score maps to their scales; see `training/record.py`.
        versions: versions of this package and of torch that wrote the file.
        commit: commit of this package's repository at training time, if known.
    """

    name: str
    architecture: str
    network: dict[str, Any]
    preprocess: Preprocess
    scale: Scale
    trained_on: TrainedOn | None = None
    questions: dict[str, dict[str, str]] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    format_version: int = FORMAT_VERSION


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config dataclass as plain JSON-ready data."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], data: Mapping[str, Any], *, source: str) -> T:
    """Build the config dataclass `cls` from parsed JSON.

    Args:
        source: where the data came from; stands in the error.

    Raises:
        ModelError: unknown key, missing key, or a value of the wrong kind.
    """
    if not isinstance(data, Mapping):
        raise ModelError(
            f"expected a mapping for {cls.__name__}, found {type(data).__name__}", path=source
        )
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    missing = sorted(
        name
        for name, f in fields.items()
        if name not in data
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        raise ModelError(
            f"{cls.__name__} has unknown keys {unknown} and lacks {missing}",
            path=source,
            remedy="the file is damaged or was written by another version of ma-agiqa",
        )
    values = {
        name: _convert(hints[name], value, source=f"{source}: {name}")
        for name, value in data.items()
    }
    return cls(**values)


def _convert(hint: Any, value: Any, *, source: str) -> Any:
    """Check `value` against a field's type; nested dataclasses and tuples are rebuilt."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        hint = next(a for a in arguments if a is not type(None))
        return _convert(hint, value, source=source)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast("type[Any]", hint), value, source=source)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(arguments[0], item, source=source) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = origin or hint
    if expected is Any:
        return value
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise ModelError(
            f"expected {getattr(expected, '__name__', expected)}, found {value!r}", path=source
        )
    return value
