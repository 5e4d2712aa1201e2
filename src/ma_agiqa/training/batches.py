"""How the images of an epoch fall into batches, and the rows of a batch to processes.

Shapes: B rows of a batch, b those of one process, S side of the crop.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.training.recipe import Recipe


class Batch(NamedTuple):
    """One batch as a process has it: its own images, everyone's scores.

    Attributes:
        positions: of the process's own rows in the training part.
        seen: views of them, (b, 3, S, S) in [0, 1].
        mixed: the same, mixed with their partners.
        targets, second: human scores of all B rows, mixed; second may be None.
        factor, partners: share of a row itself in its mixture, 1 where nothing is mixed, and
            whom it is mixed with.
        sets: data set of all B rows, or None where there is one.
    """

    positions: list[int]
    seen: Tensor
    mixed: Tensor
    targets: Tensor
    second: Tensor | None
    factor: float
    partners: Tensor
    sets: Tensor | None

    def kinds(self) -> Tensor:
        """Return a number per row, (B,): equal where targets compare, 0 for the first set.

        A mixture of two sets compares with other mixtures of the same two.
        """
        if self.sets is None:
            return torch.zeros_like(self.partners)
        other = self.sets if self.factor == 1.0 else self.sets[self.partners]
        return self.sets * (int(self.sets.max()) + 1) + other


class Rows:
    """Which rows of a batch of B a process looks at, part by part.

    A batch falls into `parts` equal runs of rows, each of these into one run per process.
    """

    def __init__(self, *, batch: int, parts: int, rank: int, processes: int) -> None:
        size = batch // (parts * processes)
        if size * parts * processes != batch:
            raise UsageError(
                f"a batch of {batch} does not fall into {parts} equal parts for each of "
                f"{processes} processes",
                remedy=f"--set batch_size={max(1, size) * parts * processes}",
            )
        self.size = size
        blocks = np.arange(batch).reshape(parts, processes, size)
        self.own: list[int] = blocks[:, rank].reshape(-1).tolist()
        place = np.empty(batch, dtype=np.int64)
        place[blocks.transpose(1, 0, 2).reshape(-1)] = np.arange(batch)
        self.place = torch.from_numpy(place)
        """Where each row stands after the processes' own rows were put one after the other."""

    def of_part(self, part: int) -> list[int]:
        """Return this process's rows of one part."""
        return self.own[part * self.size : (part + 1) * self.size]


def require_batches(images: int, recipe: Recipe, rows: Rows) -> None:
    """Refuse a training whose batches cannot be filled or degraded."""
    if images < recipe.batch_size:
        raise DataError(
            f"{images} training images do not fill a batch of {recipe.batch_size}",
            remedy="--set batch_size=N",
        )
    if recipe.degraded > 0 and rows.size < 4:
        raise UsageError(
            f"recipe: degraded takes a quarter of the rows, of which a part has only {rows.size}",
            remedy="--set batch_size=N higher, or --set degraded=0",
        )


def balanced(sets: NDArray[np.int64], *, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return at least n shuffled positions, equally many of each data set.

    A set with too few images is gone through several times, each time in another order.
    """
    kinds = np.unique(sets)
    quota = -(-len(sets) // len(kinds))
    chosen = []
    for kind in kinds:
        own = np.flatnonzero(sets == kind)
        rounds = [rng.permutation(own) for _ in range(-(-quota // len(own)))]
        chosen.append(np.concatenate(rounds)[:quota])
    return rng.permutation(np.concatenate(chosen))
