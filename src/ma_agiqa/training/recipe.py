"""Training recipes: every number that decides how a model is trained, in one place.

A recipe is data: a named preset, changed key by key with `--set key=value`. Unknown keys
and values of the wrong type fail.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from ma_agiqa.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training part.
        batch_size: images per step; the last incomplete batch of an epoch waits for another.
        views: what the network sees of an image, see `augment.py`: `crops`, `mirror`, `paper`.
        crop: side in pixels of the square crops, taken at the image's own resolution.
        finish: how many of the last epochs crop to `finish_crop` instead.
        finish_crop: side of those last crops: the size that images have when scored. A label
            belongs to the whole picture, and its statistics are those of the whole picture.
        optimiser: `adamw` (decoupled decay of matrices and kernels), or `adam` (L2 on all).
        learning_rate: peak of the schedule.
        schedule: `one-cycle` (linear warm-up, one cosine to zero over the whole run), or
            `paper` (a cosine of period 100 steps that rises again, as published).
        warmup: share of all steps that `one-cycle` spends warming up.
        weight_decay: see `optimiser`.
        layer_decay: factor on the rate for each block of the vision transformer below its
            last; 1 trains all alike.
        freeze: `none`, or `backbone` to train only what stands on the vision transformer.
        clip_norm: largest gradient norm; 0 for no limit.
        ema: decay of the moving average of weights, per step; the average is what is
            validated and kept. Early on it is shorter: min(ema, (1+s)/(10+s)). 0 for none.
        recalibrate: batches of training images over which, after the last epoch, the averaged
            weights get batch-normalisation statistics of their own; 0 keeps the averaged ones.
        accumulate: parts that a batch is computed in, one after the other, to save memory;
            their gradients make one step. Batch normalisation and `correlation` then see
            one part at a time.
        sampling: from several data sets, `proportional` to their sizes, or `balanced`:
            equally many images of each an epoch, those of small sets several times.
        loss: `huber` in units of the scores' spread, `mse` on raw scores, or `rank`: which
            of two images of one data set is better, whatever the set's scale; the first set
            then also anchors the scale by a little Huber loss.
        correlation: weight of 1 - Pearson within the batch, beside the loss; not with `rank`.
        auxiliary: weight of the second target, where data and network have one; only of a
            single data set.
        mixup: share of steps in which images and scores are mixed pairwise.
        score_noise: standard deviation, in units of the scores' own, added to targets.
        drop: dropout rate before the heads.
        turn: share of images that are mirrored left to right.
        select: validation figure that chooses the epoch: `srcc`, or `srcc+plcc`.
        checkpointing: recompute the vision transformer's activations instead of keeping
            them: less memory for about a third more time.
    """

    epochs: int = 30
    batch_size: int = 16
    views: str = "crops"
    crop: int = 224
    finish: int = 0
    finish_crop: int = 512
    optimiser: str = "adamw"
    learning_rate: float = 2e-3
    schedule: str = "one-cycle"
    warmup: float = 0.1
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    freeze: str = "none"
    clip_norm: float = 1.0
    ema: float = 0.998
    recalibrate: int = 20
    loss: str = "huber"
    correlation: float = 0.5
    auxiliary: float = 0.2
    mixup: float = 0.5
    score_noise: float = 0.15
    drop: float = 0.1
    turn: float = 0.5
    select: str = "srcc"
    checkpointing: bool = False
    accumulate: int = 1
    sampling: str = "proportional"

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "crop",
            "finish_crop",
            "learning_rate",
            "layer_decay",
            "accumulate",
        ):
            _require(self, name, getattr(self, name) > 0, "must be positive")
        for name in ("warmup", "ema", "mixup", "drop", "turn"):
            _require(self, name, 0 <= getattr(self, name) < 1, "must lie in [0, 1)")
        for name in (
            "finish",
            "recalibrate",
            "weight_decay",
            "score_noise",
            "correlation",
            "auxiliary",
        ):
            _require(self, name, getattr(self, name) >= 0, "must not be negative")
        for name, choices in CHOICES.items():
            known = f"must be one of {', '.join(choices)}"
            _require(self, name, getattr(self, name) in choices, known)
        if self.batch_size % self.accumulate:
            raise UsageError(
                f"recipe: a batch of {self.batch_size} does not fall into {self.accumulate} equal "
                "parts: accumulate must divide batch_size"
            )

    def crop_in(self, epoch: int) -> int:
        """Return the side of the crops of an epoch, counted from 0."""
        return self.finish_crop if epoch >= self.epochs - self.finish else self.crop


@dataclass(frozen=True)
class ClosedForm:
    """How to fit the compact model.

    Attributes:
        alike: views of each training picture that deserve its score, see `alike.py`.
        copies: damaged copies of each training picture, see `degrade.py`.
        fall: share of its height above the lowest score that a picture loses when damaged
            with full severity.
        doubt: how many times noisier the target of a view is than a human score.
        components: directions that the visual words are reduced to; 0 leaves them out.
        rank: coordinates by which pictures are remembered.
        origin_rank: the same for telling generators apart; with 0 they are not asked for.
        share: of the score that closeness to the best-rated pictures gives; 0 for none.
        steps: of the descent that weighs the groups of statistics.
        learning_rate: of that descent, in logarithms of the weights.
    """

    alike: int = 1
    copies: int = 1
    fall: float = 0.6
    doubt: float = 4.0
    components: int = 96
    rank: int = 176
    origin_rank: int = 150
    share: float = 0.2
    steps: int = 40
    learning_rate: float = 0.15

    def __post_init__(self) -> None:
        for name in ("rank", "learning_rate", "doubt"):
            _require(self, name, getattr(self, name) > 0, "must be positive")
        for name in ("alike", "copies", "components", "origin_rank", "steps"):
            _require(self, name, getattr(self, name) >= 0, "must not be negative")
        for name in ("fall", "share"):
            _require(self, name, 0 <= getattr(self, name) <= 1, "must lie in [0, 1]")


def _require(recipe: Recipe | ClosedForm, name: str, fulfilled: bool, rule: str) -> None:
    if not fulfilled:
        raise UsageError(f"recipe: {name} {rule}, got {getattr(recipe, name)}")


CHOICES = {
    "views": ("crops", "mirror", "paper"),
    "optimiser": ("adamw", "adam"),
    "schedule": ("one-cycle", "paper"),
    "freeze": ("none", "backbone"),
    "loss": ("huber", "mse", "rank"),
    "sampling": ("proportional", "balanced"),
    "select": ("srcc", "srcc+plcc"),
}

STEPWISE: dict[str, Recipe] = {
    "convolutional": Recipe(epochs=26, crop=256, finish=4),
    "convolutional-quick": Recipe(epochs=14, crop=192, finish=2),
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
        recalibrate=0,
        loss="mse",
        correlation=0.0,
        auxiliary=0.0,
        mixup=0.0,
        score_noise=0.0,
        select="srcc+plcc",
    ),
    "modern": Recipe(
        epochs=30,
        batch_size=8,
        views="mirror",
        learning_rate=2e-5,
        weight_decay=0.05,
        layer_decay=0.9,
        recalibrate=0,
        correlation=0.5,
        auxiliary=0.0,
        mixup=0.0,
        score_noise=0.0,
    ),
}
# What starts from a trained network needs fewer and smaller steps.
STEPWISE["convolutional-tune"] = dataclasses.replace(
    STEPWISE["convolutional"], epochs=10, finish=2, learning_rate=3e-4
)
STEPWISE["modern-tune"] = dataclasses.replace(STEPWISE["modern"], epochs=10, learning_rate=5e-6)

RECIPES: dict[str, Recipe | ClosedForm] = {"compact": ClosedForm(), **STEPWISE}


BOOLEANS = {"true": True, "false": False}


AnyRecipe = TypeVar("AnyRecipe", bound="Recipe | ClosedForm")


def with_settings(recipe: AnyRecipe, settings: Iterable[str]) -> AnyRecipe:
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
