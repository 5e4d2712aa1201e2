"""Training recipes: every number that decides how a model is trained, in one place.

A recipe is data: a named preset, changed key by key with `--set key=value`. Unknown keys
and values of the wrong type fail.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ma_agiqa.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training part.
        batch_size: images per step.
        crop: side in pixels of the square crops, taken at the image's own resolution.
        learning_rate: peak of the one-cycle schedule (linear warm-up, cosine decay to zero).
        warmup: share of all steps spent warming up.
        weight_decay: AdamW's decoupled decay, on weights of convolutions and linear layers.
        clip_norm: largest gradient norm.
        ema: decay of the exponential moving average of weights, per step; it is what is
            validated and kept. Early on the average is shorter: min(ema, (1+s)/(10+s)).
        mixup: share of steps in which images and scores are mixed pairwise.
        score_noise: standard deviation, in units of the scores' own, added to targets.
        correlation: weight of 1 - Pearson within the batch beside the Huber loss.
        auxiliary: weight of the Huber loss of the second target, where a data set has one.
        degraded: weight of the ranking loss by which a crop must score above a mildly and
            that above a strongly degraded copy; a quarter of each batch takes part.
        drop: dropout rate of whole channels before the heads.
        turn: share of crops that are mirrored left to right.
    """

    epochs: int = 50
    batch_size: int = 16
    crop: int = 224
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.998
    mixup: float = 0.5
    score_noise: float = 0.15
    correlation: float = 0.5
    auxiliary: float = 0.2
    degraded: float = 0.2
    drop: float = 0.1
    turn: float = 0.5

    def __post_init__(self) -> None:
        positive = ("epochs", "batch_size", "crop", "learning_rate", "clip_norm")
        shares = ("warmup", "ema", "mixup", "drop", "turn")
        for name in positive:
            if not getattr(self, name) > 0:
                raise UsageError(f"recipe: {name} must be positive, got {getattr(self, name)}")
        for name in shares:
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"recipe: {name} must lie in [0, 1), got {getattr(self, name)}")
        for name in ("weight_decay", "score_noise", "correlation", "auxiliary", "degraded"):
            if getattr(self, name) < 0:
                raise UsageError(f"recipe: {name} must not be negative, got {getattr(self, name)}")


RECIPES: dict[str, Recipe] = {
    "compact": Recipe(),
    "compact-quick": Recipe(epochs=20, crop=192),
}


def with_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Return `recipe` changed by `key=value` strings.

    Raises:
        UsageError: not of the form key=value, unknown key, or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(recipe)}
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"expected key=value, got {setting!r}")
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=3)
            raise UsageError(
                f"the recipe has no {key!r}",
                remedy=f"close: {', '.join(close)}" if close else f"known: {', '.join(fields)}",
            )
        kind = type(getattr(recipe, key))
        try:
            changes[key] = kind(text)
        except ValueError as error:
            raise UsageError(f"recipe: {key} takes {kind.__name__}, got {text!r}") from error
    return dataclasses.replace(recipe, **changes)
