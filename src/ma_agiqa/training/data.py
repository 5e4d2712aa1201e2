"""What a training learns from: rated images of one data set or several, on one scale.

The first data set names the model's scale unless a model is fine-tuned, which keeps its own. Human
scores of every other set are brought onto that scale by equal mean and standard deviation; what is
left, that one set's pictures are better than another's, a learned affine map with positive slope
takes up:

    A_d(y) = mean + spread * (exp(s_d) * (y - mean) / spread + t_d)        s_0 = t_0 = 0

The maps are a help of training and not part of the model. What a model directory records is
fitted afterwards, on validation images, from the model's score to the set's own scale.

Decoding costs more than cropping, so each image is decoded once and kept as uint8 at the size the
network sees. What does not fit the limit is decoded again at each use. Views are made in threads,
ahead of need. All images are decoded at the start: one that cannot be read ends the training with
its name before the first step, not in the middle of the night. All chance of an image's view
follows from (seed, epoch, place in the epoch), so it does not depend on the number of threads or
processes.

Shapes: n images, B images of a batch, S data sets, K questions, F width of their vectors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ma_agiqa.config import ModelConfig, Preprocess
from ma_agiqa.data import datasets, splits
from ma_agiqa.data.samples import Samples, TableColumns, require_images
from ma_agiqa.data.splits import Split
from ma_agiqa.devices import one_thread
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.features.source import hash_files, vectors_of
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.images import read_image
from ma_agiqa.models import preprocess as preprocessing
from ma_agiqa.text import join_some
from ma_agiqa.training.recipe import Recipe
from ma_agiqa.training.views import View, global_view, local_view, reduce_whole
from ma_agiqa.types import RGB, Scale


@dataclass(frozen=True)
class Source:
    """A data set to learn from.

    Attributes:
        data: name in the data registry, or a table.
        root: folder the data set lies in.
        split: name of the split.
    """

    data: str
    root: Path
    split: str

    @classmethod
    def parse(cls, text: str, *, split: str) -> Source:
        """Return the data set that `NAME=ROOT` or `NAME=ROOT@SPLIT` names.

        >>> Source.parse("live-itw=photos@random-8-2-0", split="paper").split
        'random-8-2-0'

        Args:
            split: of a text that names none.

        Raises:
            UsageError: the text is not of this form.
        """
        data, _, place = text.partition("=")
        root, _, own = place.rpartition("@") if "@" in place else (place, "", split)
        if not (data and root and own):
            raise UsageError(f"expected NAME=ROOT or NAME=ROOT@SPLIT, got {text!r}")
        return cls(data, Path(root), own)


@dataclass(frozen=True)
class LinearMap:
    """`slope * x + offset`, the slope positive."""

    slope: float
    offset: float

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x if (self.slope, self.offset) == (1.0, 0.0) else self.slope * x + self.offset


def between(low: float, high: float, to_low: float, to_high: float) -> LinearMap:
    """Return the map of one scale's ends to another's."""
    slope = (to_high - to_low) / (high - low)
    return LinearMap(slope, to_low - slope * low)


def standardised(scores: NDArray[np.float64], like: NDArray[np.float64]) -> LinearMap:
    """Return the map that gives scores the mean and standard deviation of `like`."""
    slope = float(like.std() / scores.std())
    return LinearMap(slope, float(like.mean() - slope * scores.mean()))


def fitted(predicted: NDArray[np.float64], scores: NDArray[np.float64]) -> LinearMap | None:
    """Return the least-squares map from the model's scores to a set's own.

    None where the model does not order the set at all: no positive slope fits.
    """
    spread = float(predicted.var())
    if not spread > 0:
        return None
    slope = float(np.mean((predicted - predicted.mean()) * (scores - scores.mean()))) / spread
    return LinearMap(slope, float(scores.mean() - slope * predicted.mean())) if slope > 0 else None


class ScaleMaps(nn.Module):
    """The learned maps A_d of S data sets; the first is the identity.

    Args:
        sets: how many data sets.
        mean, spread: of the first set's training scores.
    """

    def __init__(self, *, sets: int, mean: float, spread: float) -> None:
        super().__init__()
        if sets < 2 or not spread > 0:
            raise DataError(f"maps join at least two data sets with scores that vary: {sets=}")
        self.mean, self.spread = mean, spread
        self.log_slope = nn.Parameter(torch.zeros(sets - 1))
        self.offset = nn.Parameter(torch.zeros(sets - 1))

    def forward(self, score_B: Tensor, sets_B: Tensor) -> Tensor:
        """Return each score as its data set would have it, on the first set's scale, (B,)."""
        zero = self.log_slope.new_zeros(1)
        slope = torch.cat([zero, self.log_slope]).exp()[sets_B]
        offset = torch.cat([zero, self.offset])[sets_B]
        return self.mean + slope * (score_B - self.mean) + self.spread * offset


MIN_VALIDATION = 5
"""Fewer images than this have no rank correlation to select by."""


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
    to_model: LinearMap = LinearMap(1.0, 0.0)

    def scores(self, part: str) -> NDArray[np.float64]:
        """Return the human scores of a part, on the set's own scale, (n,)."""
        return self.samples.target(self.target)[self.split.part(part)]

    def content(self) -> dict[str, str]:
        """Return digests of what is learned from: names, scores, split, content of the files."""
        parts = {
            "names": list(self.samples.name),
            "scores": self.samples.target(self.target).tolist(),
            "split": [self.split.part(part).tolist() for part in ("train", "val", "test")],
            "files": [self.hashes[row] for row in (*self.split.train, *self.split.val)],
        }
        return {key: sha256(json.dumps(value).encode()).hexdigest() for key, value in parts.items()}

    @cached_property
    def hashes(self) -> dict[int, str]:
        """Content hash of each image of the split, by row; of those that are there."""
        rows = [*self.split.train, *self.split.val, *self.split.test]
        rows = [row for row in rows if self.samples.path[row].is_file()]
        return dict(zip(rows, hash_files([self.samples.path[row] for row in rows]), strict=True))

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
        DataError: a set or its split is incomplete or too small, images to learn from or to
            validate on are missing, or scores do not vary.
    """
    found: list[DataSet] = []
    for source in sources:
        samples = datasets.load(source.data, source.root, columns)
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
        require_images(samples.subset(np.concatenate([split.train, split.val])))
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
        FeatureError: the store lacks images.
    """
    chosen = [one.samples.subset(one.split.part(part)) for one in sets]
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
    """Return how many images for validation or test have the content of one that trains."""
    trained = {one.hashes[row] for one in sets for row in one.split.train}
    kept = [
        one.hashes[row]
        for one in sets
        for row in (*one.split.val, *one.split.test)
        if row in one.hashes
    ]
    return sum(digest in trained for digest in kept)


class TrainingImages:
    """Random access to decoded images by position, uint8, shape (H, W, 3).

    Args:
        paths: the image files.
        preprocess: brings each image to the size the network sees.
        content_side: of the reduced whole that `local` views show beside the crop.
        limit_bytes: how much may be kept, reduced wholes included; the rest is made at each use.
        workers: threads that decode and make views.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        preprocess: Preprocess,
        content_side: int | None = None,
        limit_bytes: int = 6 << 30,
        workers: int = 2,
    ) -> None:
        self.paths, self.preprocess = [Path(p) for p in paths], preprocess
        self.content_side = content_side
        # One torch thread each: more would wait for those of the network, and it for them.
        self.pool = ThreadPoolExecutor(
            workers, thread_name_prefix="decode", initializer=torch.get_num_threads
        )
        self._kept: dict[int, RGB] = {}
        self._reduced: dict[int, RGB] = {}
        self._free, self._lock = limit_bytes, Lock()
        with one_thread():
            # All are decoded, also beyond the limit: a damaged one is named now.
            for position, pixels in enumerate(self.pool.map(self._decode, range(len(paths)))):
                self._keep(self._kept, position, pixels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> RGB:
        kept = self._kept.get(position)
        return self._decode(position) if kept is None else kept

    def view(
        self, position: int, recipe: Recipe, *, distorted: bool, rng: np.random.Generator
    ) -> View:
        """Return one view of an image, see `views.py`."""
        rgb, side = self[position], self.content_side
        if side is None:
            return global_view(rgb, recipe, rng=rng)
        reduced = self._reduced.get(position)
        if reduced is None:
            reduced = reduce_whole(rgb, side=side)
            self._keep(self._reduced, position, reduced)
        return local_view(rgb, reduced, recipe, content_side=side, distorted=distorted, rng=rng)

    def _keep(self, cache: dict[int, RGB], position: int, pixels: RGB) -> None:
        """Keep pixels if they fit what is left of the limit."""
        with self._lock:
            if position not in cache and pixels.nbytes <= self._free:
                cache[position] = pixels
                self._free -= pixels.nbytes

    def _decode(self, position: int) -> RGB:
        return preprocessing.fit(read_image(self.paths[position]), self.preprocess)


@dataclass(frozen=True)
class TrainingSet:
    """Images of one part of a split with their human scores.

    Attributes:
        scores: shape (n,).
        semantics: vectors of K questions, shape (n, K, F), or None for a network without.
        sets: which data set each image is of, shape (n,), from 0.
        names: of the data sets.
    """

    images: TrainingImages
    scores: NDArray[np.float64]
    semantics: Tensor | None
    sets: NDArray[np.int64]
    names: tuple[str, ...]

    def semantics_of(self, positions: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
        """Return what the network takes besides images: () or one tensor (B, K, F)."""
        if self.semantics is None:
            return ()
        return (self.semantics[list(positions)].float().to(device),)

    def batches(
        self,
        plan: Sequence[Sequence[int]],
        recipe: Recipe,
        *,
        seed: tuple[int, int],
        rows: range,
        distorted: int = 0,
    ) -> Iterator[tuple[list[int], list[View]]]:
        """Yield positions and views of each planned batch, the next two in the making.

        Args:
            plan: positions of each batch of B images.
            seed: of the run, and the epoch.
            rows: which rows of each batch to make; those of this process.
            distorted: how many of these, the first ones, bring distorted copies along.
        """

        def start(step: int) -> list[Future[View]]:
            return [
                self.images.pool.submit(
                    self.images.view,
                    plan[step][row],
                    recipe,
                    distorted=row - rows.start < distorted,
                    rng=np.random.default_rng([*seed, step, row]),
                )
                for row in rows
            ]

        ahead = [start(step) for step in range(min(2, len(plan)))]
        for step in range(len(plan)):
            views = [future.result() for future in ahead.pop(0)]
            if step + 2 < len(plan):
                ahead.append(start(step + 2))
            yield [plan[step][row] for row in rows], views
