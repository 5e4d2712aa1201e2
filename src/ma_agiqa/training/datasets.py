"""The data sets of a training: loaded, split, and brought onto the model's scale.

The first data set names the model's scale unless a model is fine-tuned, which keeps its own.

Shapes: n images of a set.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray

from ma_agiqa.config import ModelConfig, Preprocess
from ma_agiqa.data import datasets as registry
from ma_agiqa.data import splits
from ma_agiqa.data.samples import Samples, TableColumns, require_images
from ma_agiqa.data.splits import Split
from ma_agiqa.errors import DataError
from ma_agiqa.features.source import hash_files
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.text import join_some
from ma_agiqa.training.data import TrainingImages, TrainingSet
from ma_agiqa.training.request import Source
from ma_agiqa.training.scales import LinearMap, between, standardised
from ma_agiqa.training.semantics import vectors_of
from ma_agiqa.types import Scale

MIN_VALIDATION = 5
"""Fewer images than this have no rank correlation to select by."""

IDENTITY = LinearMap(1.0, 0.0)


@dataclass(frozen=True)
class DataSet:
    """One data set of a training.

    Attributes:
        name: of the set, unique among the sets of the training.
        target: the human score that is learned.
        to_model: from the set's scores to the scale they are learned on.
    """

    name: str
    samples: Samples
    split: Split
    target: str
    to_model: LinearMap = IDENTITY

    def scores(self, part: str) -> NDArray[np.float64]:
        """Return the human scores of a part, on the set's own scale, (n,)."""
        return self.samples.target(self.target)[self.split.part(part)]

    def content(self) -> dict[str, str]:
        """Return digests of what is learned from: names, scores, split, content of the files."""
        parts = {
            "names": list(self.samples.name),
            "scores": self.samples.target(self.target).tolist(),
            "split": [self.split.part(part).tolist() for part in ("train", "val", "test")],
            "files": hash_files([self.samples.path[row] for row in self._learned()]),
        }
        return {key: sha256(json.dumps(value).encode()).hexdigest() for key, value in parts.items()}

    def _learned(self) -> list[int]:
        return [int(row) for part in ("train", "val") for row in self.split.part(part)]

    @property
    def scale(self) -> Scale:
        """The nominal ends of the set's scale, or what its training scores span."""
        scores = self.scores("train")
        own = Scale(float(scores.min()), float(scores.max()), name=self.target)
        return self.samples.scale or own


def load_sets(
    sources: Sequence[Source],
    *,
    target: str | None,
    columns: TableColumns,
    scale: Scale | None,
) -> list[DataSet]:
    """Load data sets, the main one first.

    Args:
        sources: the data sets, that of the model's scale first.
        target: of the main set, and of the others where they have it.
        scale: of the model to be fine-tuned; None takes the first set's.

    Raises:
        DataError: a set or its split is incomplete, or too small, or its scores do not vary.
    """
    found: list[DataSet] = []
    for source in sources:
        samples = registry.load(source.data, source.root, columns)
        own = next(iter(samples.targets))
        if target is not None and (not found or target in samples.targets):
            samples.target(target)  # an unknown one of the main set is an error
            own = target
        names = [one.name for one in found]
        name = samples.dataset
        if name in names:
            name = f"{name}-{len(found) + 1}"
        split = splits.resolve(source.split, samples, source.root)
        one = DataSet(name, samples, split, own)
        _require_learnable(one)
        found.append(one)
    first = found[0]
    if scale is not None:
        own_ends, ends = first.scale, scale
        to_model = between(own_ends.low, own_ends.high, ends.low, ends.high)
        first = DataSet(first.name, first.samples, first.split, first.target, to_model)
    like = first.to_model(first.scores("train"))
    others = [
        DataSet(o.name, o.samples, o.split, o.target, standardised(o.scores("train"), like))
        for o in found[1:]
    ]
    return [first, *others]


def _require_learnable(one: DataSet) -> None:
    scores = one.samples.target(one.target)
    unknown = [n for n, good in zip(one.samples.name, np.isfinite(scores), strict=True) if not good]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(scores)} images of {one.name} have no finite "
            f"{one.target!r}: {join_some(unknown)}",
            remedy="give these records a score or remove them",
        )
    if len(one.split.train) == 0 or not np.ptp(one.scores("train")) > 0:
        raise DataError(
            f"all training images of {one.name} have the same score: there is nothing to learn"
        )
    if len(one.split.val) < MIN_VALIDATION:
        raise DataError(
            f"{len(one.split.val)} validation images cannot select a model, "
            f"{MIN_VALIDATION} are the least",
            path=one.name,
            remedy="use more images, or another split",
        )


def training_part(
    sets: list[DataSet],
    part: str,
    *,
    preprocess: Preprocess,
    content_side: int | None,
    store: FeatureStore | None,
    config: ModelConfig | None,
) -> TrainingSet:
    """Return one part of all sets: `train` on the model's scale, others on their own.

    Args:
        content_side: see `TrainingImages`.
        config: of the model to be fine-tuned.

    Raises:
        DataError: images are missing.
        FeatureError: the store lacks images.
    """
    chosen = [one.samples.subset(one.split.part(part)) for one in sets]
    for samples in chosen:
        require_images(samples)
    scores = [
        one.to_model(one.scores(part)) if part == "train" else one.scores(part) for one in sets
    ]
    vectors = [vectors_of(store, samples, config=config) for samples in chosen]
    sizes = [len(samples) for samples in chosen]
    return TrainingSet(
        images=TrainingImages(
            [path for samples in chosen for path in samples.path],
            preprocess=preprocess,
            content_side=content_side,
        ),
        scores=np.concatenate(scores),
        semantics=None if store is None else torch.cat([v for v in vectors if v is not None]),
        sets=np.repeat(np.arange(len(sets)), sizes),
        names=tuple(one.name for one in sets),
    )


def seen_in_training(sets: list[DataSet]) -> int:
    """Return how many images that one set trains on another keeps for validation or test."""
    trained = {one.samples.path[row] for one in sets for row in one.split.train}
    kept = {
        one.samples.path[row] for one in sets for p in ("val", "test") for row in one.split.part(p)
    }
    return len(trained & kept)
