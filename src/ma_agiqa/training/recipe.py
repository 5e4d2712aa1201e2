"""Training recipes: every number that decides how a model is trained, in one place.

A recipe is data: a named preset, changed key by key with `--set key=value`. Unknown keys
and values of the wrong type fail.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ma_agiqa.errors import UsageError

MOST_CROP = 2048


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training part.
        batch_size: images per step; the last incomplete batch of an epoch waits for another.
        views: what the network sees of an image, see `views.py`: `local`, `mirror`, `paper`.
        crop: side in pixels of the square crops of `local`.
        reduce_prob, enlarge_prob: of `local`, the share of crops that are taken from a reduced
            copy (down to half the size) or an enlarged copy (up to twice the size).
        flip_prob: share of images that are mirrored left to right.
        optimiser: `adamw` (decoupled decay of matrices and kernels), or `adam` (L2 on all).
        learning_rate: peak of the schedule.
        schedule: `one-cycle` (linear warm-up, one cosine to zero over the whole run), or
            `paper` (a cosine of period 100 steps that rises again, as published).
        warmup: share of all steps that `one-cycle` spends warming up.
        weight_decay: see `optimiser`.
        depth_decay: factor on the learning rate for each level of depth, which the network
            defines (`depth_of`); 1 trains all alike.
        frozen_depth: parameters at this depth and below are not trained; 0 trains all.
        clip_norm: largest gradient norm; 0 for no limit.
        ema: decay of the moving average of weights, per step; the average is what is
            validated and kept. Early on it is shorter: min(ema, (1+s)/(10+s)). 0 for none.
        loss: `huber` in units of the scores' standard deviation, or `mse` on raw scores.
        correlation: weight of 1 - Pearson within the batch, of each data set by itself.
        ranking: weight of the pairwise ranking loss, of each data set by itself.
        likeness: weight of telling which data set an image is of, for networks with a readout for
            each.
        first_prior: log odds by which a picture that is like no data set counts as one of the
            first, beyond what its share of the training images gives.
        distorted: images of each batch that bring two distorted copies along, which have to
            rank below them; for networks with local views.
        distortion_weight: weight of that ranking.
        map_weight: weight, within it, of the place: where only a part of a copy is distorted,
            the map has to be lower there.
        drop: dropout rate before the heads.
        mixed_precision: whether `--precision auto` may take bfloat16.
        select: validation figure that chooses the epoch: `srcc`, `srcc+plcc`, or `last`.
    """

    epochs: int = 30
    batch_size: int = 16
    views: str = "local"
    crop: int = 224
    reduce_prob: float = 0.35
    enlarge_prob: float = 0.15
    flip_prob: float = 0.5
    optimiser: str = "adamw"
    learning_rate: float = 2e-3
    schedule: str = "one-cycle"
    warmup: float = 0.1
    weight_decay: float = 0.05
    depth_decay: float = 1.0
    frozen_depth: int = 0
    clip_norm: float = 1.0
    ema: float = 0.998
    loss: str = "huber"
    correlation: float = 0.5
    ranking: float = 0.0
    likeness: float = 0.3
    first_prior: float = 0.0
    distorted: int = 0
    distortion_weight: float = 0.5
    map_weight: float = 0.3
    drop: float = 0.1
    mixed_precision: bool = True
    select: str = "srcc"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float):
                self._require(field.name, math.isfinite(value), "must be a finite number")
        self._require("crop", self.crop <= MOST_CROP, f"must be at most {MOST_CROP} pixels")
        for name in ("epochs", "batch_size", "crop", "learning_rate", "depth_decay"):
            self._require(name, getattr(self, name) > 0, "must be positive")
        for name in ("warmup", "ema", "drop"):
            self._require(name, 0 <= getattr(self, name) < 1, "must lie in [0, 1)")
        for name in ("flip_prob", "reduce_prob", "enlarge_prob"):
            self._require(name, 0 <= getattr(self, name) <= 1, "must lie in [0, 1]")
        for name in (
            "weight_decay",
            "correlation",
            "ranking",
            "likeness",
            "first_prior",
            "clip_norm",
            "frozen_depth",
            "distorted",
            "distortion_weight",
            "map_weight",
        ):
            self._require(name, getattr(self, name) >= 0, "must not be negative")
        for name, choices in CHOICES.items():
            known = f"must be one of {', '.join(choices)}"
            self._require(name, getattr(self, name) in choices, known)
        self._require("distorted", self.distorted <= self.batch_size, "must not exceed batch_size")
        if self.distorted and self.views != "local":
            raise UsageError("recipe: distorted copies need views=local")

    def _require(self, name: str, fulfilled: bool, rule: str) -> None:
        if not fulfilled:
            raise UsageError(f"recipe: {name} {rule}, got {getattr(self, name)}")


CHOICES = {
    "views": ("local", "mirror", "paper"),
    "optimiser": ("adamw", "adam"),
    "schedule": ("one-cycle", "paper"),
    "loss": ("huber", "mse"),
    "select": ("srcc", "srcc+plcc", "last"),
}

RECIPES: dict[str, Recipe] = {
    "compact": Recipe(
        epochs=10,
        batch_size=24,
        learning_rate=1e-3,
        depth_decay=0.25,
        frozen_depth=3,
        weight_decay=0.02,
        ema=0.99,
        ranking=0.5,
        first_prior=1.5,
        distorted=4,
        map_weight=0.6,
        drop=0.5,
        select="last",
    ),
    "paper": Recipe(
        epochs=30,
        batch_size=8,
        views="paper",
        optimiser="adam",
        learning_rate=1e-5,
        schedule="paper",
        weight_decay=1e-5,
        clip_norm=0.0,
        ema=0.0,
        loss="mse",
        correlation=0.0,
        mixed_precision=False,
        select="srcc+plcc",
    ),
    "modern": Recipe(
        epochs=30,
        batch_size=8,
        views="mirror",
        learning_rate=2e-5,
        weight_decay=0.05,
        depth_decay=0.9,
    ),
}
# What starts from a trained network needs fewer and smaller steps.
RECIPES["compact-tune"] = dataclasses.replace(RECIPES["compact"], epochs=6, learning_rate=5e-4)
RECIPES["modern-tune"] = dataclasses.replace(RECIPES["modern"], epochs=10, learning_rate=5e-6)

BOOLEANS = {"true": True, "false": False}


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
            changes[key] = BOOLEANS[text] if kind is bool else kind(text)
        except (ValueError, KeyError) as error:
            raise UsageError(f"recipe: {key} takes {kind.__name__}, got {text!r}") from error
    return dataclasses.replace(recipe, **changes)
