"""A split: three parts that share no image, and what a number on them is worth.

Text generates many images, and images of one prompt look alike. Where prompts are shared
between training and test a number flatters, so each split measures that on the data and
carries it as a caveat, shown wherever its numbers are.

What this file does not do: know the name of a split (`splits.py`).

Shapes: n records; a part is an int64 array of row numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ma_agiqa.data.partitions import Parts, Rows
from ma_agiqa.data.samples import Samples
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.text import hint, some

PARTS = ("train", "val", "test", "all")
PROMPT = "prompt"


@dataclass(frozen=True, eq=False)
class Split:
    """A partition of a data set, or of some of it, into three parts that share no image.

    Attributes:
        name: what `resolve` calls it.
        protocol: how it was made, in one sentence.
        caveats: what a reader of a number on it must know.
        train, val, test: row numbers, in the order the protocol gives them.
    """

    name: str
    protocol: str
    caveats: tuple[str, ...]
    train: Rows
    val: Rows
    test: Rows

    def __post_init__(self) -> None:
        for one, other in combinations(("train", "val", "test"), 2):
            shared = np.intersect1d(getattr(self, one), getattr(self, other))
            if len(shared):
                raise DataError(f"split {self.name}: {len(shared)} images in {one} and {other}")
        for name in ("train", "val", "test"):
            part = getattr(self, name)
            if len(np.unique(part)) != len(part):
                raise DataError(f"split {self.name}: an image occurs twice in {name}")
            part.setflags(write=False)

    def part(self, name: str) -> Rows:
        """Return the rows of `train`, `val`, `test`, or of `all` three in ascending order.

        Raises:
            UsageError: another name.
            DataError: the part is empty.
        """
        if name not in PARTS:
            raise UsageError(f"unknown part {name!r}{hint(name, PARTS, 'there are')}")
        if name == "all":
            return np.sort(np.concatenate([self.train, self.val, self.test]))
        rows: Rows = getattr(self, name)
        if len(rows) == 0:
            raise DataError(f"split {self.name} has no images in its part {name!r}")
        return rows


def split_of(name: str, protocol: str, samples: Samples, parts: Parts, *extra: str) -> Split:
    """Return the split with the caveats that the data give it."""
    caveats = (*_shared_prompts(samples, parts.train, parts.test), *extra, *samples.caveats)
    return Split(name, protocol, caveats, *parts)


def _shared_prompts(samples: Samples, train: Rows, test: Rows) -> tuple[str, ...]:
    """Say how many test prompts training has seen."""
    if samples.photographs:
        return ()
    overlap = prompt_overlap(samples, train, test)
    if overlap is None:
        return ("prompts are unknown, so training and test may share them",)
    if overlap == 0:
        return ()
    if overlap == 1:
        return ("every test prompt also occurs in training: expect less on new prompts",)
    share = f"{100 * overlap:.1f} %"
    return (f"{share} of the test images have a prompt that also occurs in training",)


def apart(split: Split, samples: Samples) -> Split:
    """Return a split by prompt after a look whether it is one.

    Raises:
        DataError: a prompt occurs in two parts.
    """
    prompts = samples.groups[PROMPT]
    for one, other in combinations(("train", "val", "test"), 2):
        first, second = ({prompts[i] for i in getattr(split, part)} for part in (one, other))
        shared = first & second
        if shared:
            raise DataError(
                f"split {split.name}: {len(shared)} prompts occur in {one} and {other}: "
                f"{some(sorted(shared))}",
                remedy="the list and the annotations do not belong together",
            )
    return split


def prompt_overlap(samples: Samples, train: Rows, test: Rows) -> float | None:
    """Return the share of test images whose prompt occurs in training; None if unknown."""
    if PROMPT not in samples.groups or len(train) == 0 or len(test) == 0:
        return None
    prompts = samples.groups[PROMPT]
    seen = {prompts[row] for row in train}
    return sum(prompts[row] in seen for row in test) / len(test)
