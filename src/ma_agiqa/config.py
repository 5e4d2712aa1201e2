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
from pathlib import Path
from typing import Any, TypeVar

from ma_agiqa.errors import MAAGIQAError, ModelError
from ma_agiqa.text import did_you_mean, join_some
from ma_agiqa.types import Scale

FORMAT_VERSION = 1
T = TypeVar("T")
REMEDY = "the file is damaged or was written by another version of ma-agiqa"


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
class ScoreInterval:
    """How far from a score the people's mean opinion lies; see `evaluation/conformal.py`.

    Attributes:
        half_width: on the model's scale.
        coverage: share of human scores that lie no further away; `types.COVERAGE`.
        images: how many validation images of the model's own data set say so.
    """

    half_width: float
    coverage: float
    images: int


@dataclass(frozen=True)
class ModelConfig:
    """Everything about a model except its weights.

    Attributes:
        name: what results call the model.
        architecture: name in the table of `models/registry.py`.
        network: keyword arguments of that architecture's constructor.
        interval: of its scores; None where it was not measured, as in files of versions that
            did not know it.
        questions: name -> text and fingerprint of each question whose vectors the model
            takes, in order; empty for a model without semantics.
        encoder: identity of the encoder whose vectors it was trained on, see
            `lmm/encoder.py`; empty where that is not known.
        training: what else there is to know of its training: the model it started from, the
            other data sets and how the score maps to their scales; see `training/run_dir.py`.
        versions: versions of this package and of torch that wrote the file.
        commit: commit of this package's repository at training time, if known.
    """

    name: str
    architecture: str
    network: dict[str, Any]
    preprocess: Preprocess
    scale: Scale
    trained_on: TrainedOn | None = None
    interval: ScoreInterval | None = None
    questions: dict[str, dict[str, str]] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    format_version: int = FORMAT_VERSION


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config dataclass as plain JSON-ready data."""
    return dataclasses.asdict(config)


def from_dict(
    cls: type[T],
    data: Mapping[str, Any],
    *,
    source: str,
    error: type[MAAGIQAError] = ModelError,
    folder: Path | None = None,
) -> T:
    """Build the dataclass `cls` from parsed JSON or TOML.

    Args:
        source: where the data came from; stands in the error.
        error: class of the errors.
        folder: given for a file that people write. Its paths start there, and a single value
            stands for a list of one.

    Raises:
        ModelError, or the class given: unknown key, missing key, or a value of another type.
    """
    if not isinstance(data, Mapping):
        raise error(f"expected a mapping for {cls.__name__}, got {data!r}", path=source)
    remedy = None if folder is not None else REMEDY
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(data) - set(fields)):
        known = did_you_mean(unknown[0], fields, "known are")
        names = join_some([repr(name) for name in unknown])
        raise error(f"unknown keys {names}{known}", path=source, remedy=remedy)
    missing = [
        repr(name)
        for name, f in fields.items()
        if name not in data
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise error(f"missing keys {join_some(missing)}", path=source, remedy=remedy)
    hints = typing.get_type_hints(cls)
    return cls(
        **{
            name: _convert(hints[name], value, f"{source}: {name}", error, folder)
            for name, value in data.items()
        }
    )


def _convert(
    hint: Any, value: Any, source: str, error: type[MAAGIQAError], folder: Path | None
) -> Any:
    """Check `value` against a field's type; nested dataclasses and tuples are rebuilt."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        hint = next(a for a in arguments if a is not type(None))
        return _convert(hint, value, source, error, folder)
    if dataclasses.is_dataclass(hint):
        cls = typing.cast("type[Any]", hint)
        if isinstance(value, cls):
            return value
        return from_dict(cls, value, source=source, error=error, folder=folder)
    if origin is tuple:
        if folder is not None and not isinstance(value, list):
            value = [value]
        if isinstance(value, list | tuple):
            return tuple(_convert(arguments[0], item, source, error, folder) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise error(f"{str(value)[:8]}… is too large a number", path=source) from None
    if hint is Path and isinstance(value, str) and folder is not None:
        return folder / value
    expected = origin or hint
    if expected is Any:
        return value
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        name = getattr(expected, "__name__", expected)
        raise error(f"expected {name}, got {value!r}", path=source)
    return value
