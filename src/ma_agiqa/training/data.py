"""The images of one part of a split with their human scores, of one data set or several.

Decoding costs more than cropping, so each image is decoded once and kept as uint8 at the size the
network sees. What does not fit the limit is decoded again at each use. Views are made in threads,
ahead of need. An image that cannot be read ends the training with its name before the first
step, not in the middle of the night.

All chance of an image's view follows from (seed, epoch, place in the epoch), so it does not depend
on the number of threads or processes.

Shapes: n images, B images of a batch, K questions, F width of their vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ma_agiqa.config import Preprocess
from ma_agiqa.devices import one_thread
from ma_agiqa.images import read_image
from ma_agiqa.models import preprocess as preprocessing
from ma_agiqa.training.recipe import Recipe
from ma_agiqa.training.views import View, global_view, local_view, reduce_whole
from ma_agiqa.types import RGB


class TrainingImages:
    """Random access to decoded images by position, uint8, shape (H, W, 3).

    Args:
        paths: the image files.
        preprocess: brings each image to the size the network sees.
        content_side: of the reduced whole that `local` views show beside the crop.
        limit_bytes: how much may be kept; the rest is decoded at each use.
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
        size = 0
        with one_thread():
            for position, pixels in enumerate(self.pool.map(self._decode, range(len(paths)))):
                size += pixels.nbytes
                if size > limit_bytes:
                    break
                self._kept[position] = pixels

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
        if position not in self._reduced:
            self._reduced[position] = reduce_whole(rgb, side=side)
        reduced = self._reduced[position]
        return local_view(rgb, reduced, recipe, content_side=side, distorted=distorted, rng=rng)

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
