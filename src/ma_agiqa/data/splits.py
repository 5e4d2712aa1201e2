"""Which images train, which select, which judge; and what such a number is worth.

    paper       the official split: python's random.seed(20) shuffle, 7:1:2 by image
    random-S    the same by any seed S
    prompt-S    7:1:2 by prompt, seed S: no prompt in two parts
    ipce-NN     test names in ROOT/splits/ipce-NN-test.txt, published with IPCE; no prompt
                in training and test
    all         every image is test: for models trained on other data

Source: MA-AGIQA (arXiv 2404.17762), official split code; lists published with IPCE.

Kept from the official code: the order of its shuffled lists, and its rounding of the part
sizes. Not kept: its test loader drops the last incomplete batch (5 of the 597 test images
of AGIQA-3K); here every image of a part counts.

Text generates many images, and images of one prompt look alike. Where prompts are shared
between training and test a number flatters, so each split measures that on the data and
carries it as a caveat, shown wherever its numbers are.

Shapes: n records; a part is an int64 array of row numbers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ma_agiqa.data.samples import Samples, hint, some
from ma_agiqa.errors import DataError, UsageError

PARTS = ("train", "val", "test", "all")
PAPER_SEED = 20
TRAIN_END, VAL_END = 0.7, 0.8  # 7:1:2
VAL_SHARE, TEST_SHARE = 0.1, 0.2
PROMPT = "prompt"

Rows = NDArray[np.int64]


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


def parse(text: str, *, default_part: str | None = None) -> tuple[str, str]:
    """Return split and part of `NAME:PART`, e.g. `paper:test`.

    Args:
        default_part: taken when the text names no part; None makes that an error.

    Raises:
        UsageError: no part, or an unknown one.
    """
    name, colon, part = text.partition(":")
    part = part if colon else default_part or ""
    if not name or part not in PARTS:
        raise UsageError(
            f"{text!r} is not of the form NAME:PART",
            remedy=f"PART is one of {', '.join(PARTS)}: paper:test",
        )
    return name, part


def resolve(name: str, samples: Samples, root: str | Path) -> Split:
    """Return the split called `name` of a data set.

    Args:
        root: folder of the data set; holds `splits/` for the published lists.

    Raises:
        UsageError: unknown name.
        DataError: the data set lacks what the split needs: list, prompts, enough images.
    """
    for pattern, build in _KINDS.items():
        match = re.fullmatch(pattern, name)
        if match:
            split = build(name, match.groups(), samples, Path(root))
            if name != "all" and 0 in (len(split.train), len(split.val), len(split.test)):
                raise DataError(
                    f"split {name} of {samples.dataset} has an empty part: {len(split.train)} "
                    f"train, {len(split.val)} val, {len(split.test)} test",
                    remedy="use more images",
                )
            return split
    forms = ("paper", "random-0", "prompt-0", "ipce-01", "all")
    raise UsageError(f"unknown split {name!r}{hint(name, forms, 'splits are')}")


def prompt_overlap(samples: Samples, train: Rows, test: Rows) -> float | None:
    """Return the share of test images whose prompt occurs in training; None if unknown."""
    if PROMPT not in samples.groups or len(train) == 0 or len(test) == 0:
        return None
    prompts = samples.groups[PROMPT]
    seen = {prompts[row] for row in train}
    return sum(prompts[row] in seen for row in test) / len(test)


def _shuffled(name: str, groups: Sequence[str], samples: Samples, root: Path) -> Split:
    """Shuffle the images by seed and cut the list 7:1:2."""
    seed = int(groups[0]) if groups else PAPER_SEED
    n = len(samples)
    order = list(range(n))
    random.Random(seed).shuffle(order)
    train, val, test = np.split(np.array(order), [int(n * TRAIN_END), int(n * VAL_END)])
    return Split(
        name=name,
        protocol=f"7:1:2 by image, python's random shuffle with seed {seed}",
        caveats=_caveats(samples, train, test),
        train=train,
        val=val,
        test=test,
    )


def _by_prompt(name: str, groups: Sequence[str], samples: Samples, root: Path) -> Split:
    """Give whole prompts, shuffled by seed, to test, then to validation, then to training."""
    seed, n = int(groups[0]), len(samples)
    rest = np.arange(n)
    generator = random.Random(seed)
    test, rest = _hold_out(samples, rest, int(n * TEST_SHARE), generator)
    val, train = _hold_out(samples, rest, int(n * VAL_SHARE), generator)
    return Split(
        name=name,
        protocol=f"7:1:2 by prompt, seed {seed}: no prompt occurs in two parts",
        caveats=_caveats(samples, train, test),
        train=train,
        val=val,
        test=test,
    )


def _ipce(name: str, groups: Sequence[str], samples: Samples, root: Path) -> Split:
    """Take the published test list; hold out prompts of the rest for validation."""
    test = _listed(samples, root / "splits" / f"{name}-test.txt")
    rest = np.setdiff1d(np.arange(len(samples)), test)
    generator = random.Random(int(groups[0]))
    val, train = _hold_out(samples, rest, int(len(samples) * VAL_SHARE), generator)
    return Split(
        name=name,
        protocol=(
            f"test images as published with IPCE (list {groups[0]}); of the others whole "
            "prompts, seeded by the list's number, a tenth of all images, are validation"
        ),
        caveats=(
            *_caveats(samples, train, test),
            "IPCE publishes no validation part; ours is taken from its training images",
        ),
        train=train,
        val=val,
        test=test,
    )


def _whole(name: str, groups: Sequence[str], samples: Samples, root: Path) -> Split:
    """Make every image a test image."""
    none = np.empty(0, dtype=np.int64)
    caveat = "a model trained on any of these images must not be judged on them"
    everything = np.arange(len(samples))
    return Split(name, "every image is test", (caveat,), none, none.copy(), everything)


_KINDS: dict[str, Callable[[str, Sequence[str], Samples, Path], Split]] = {
    r"paper": _shuffled,
    r"random-(\d+)": _shuffled,
    r"prompt-(\d+)": _by_prompt,
    r"ipce-(\d\d)": _ipce,
    r"all": _whole,
}


def _caveats(samples: Samples, train: Rows, test: Rows) -> tuple[str, ...]:
    """Say how many test prompts training has seen."""
    overlap = prompt_overlap(samples, train, test)
    if overlap is None:
        return ("prompts are unknown, so training and test may share them",)
    if overlap == 0:
        return ()
    if overlap == 1:
        return ("every test prompt also occurs in training: expect less on new prompts",)
    share = f"{100 * overlap:.1f} %"
    return (f"{share} of the test images have a prompt that also occurs in training",)


def _hold_out(
    samples: Samples, rows: Rows, images: int, generator: random.Random
) -> tuple[Rows, Rows]:
    """Return (held, rest): whole shuffled prompts until `images` are reached, ascending."""
    if PROMPT not in samples.groups:
        raise DataError(
            f"{samples.dataset} has no group {PROMPT!r} to split by",
            remedy="name its prompt column, or use a split by image such as random-0",
        )
    prompts = [samples.groups[PROMPT][row] for row in rows]
    if "" in prompts:
        raise DataError(f"{prompts.count('')} images of {samples.dataset} have no prompt")
    members: dict[str, list[int]] = {prompt: [] for prompt in sorted(prompts)}
    for row, prompt in zip(rows.tolist(), prompts, strict=True):
        members[prompt].append(row)
    order = list(members)  # sorted, so that the order of the table does not matter
    generator.shuffle(order)
    held: list[int] = []
    for prompt in order:
        if len(held) >= images:
            break
        held += members[prompt]
    chosen = np.array(sorted(held), dtype=np.int64)
    return chosen, np.setdiff1d(rows, chosen)


def _listed(samples: Samples, path: Path) -> Rows:
    """Return the rows of the names in a text file, one a line, in its order."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise DataError(
            "the list of test names is not there",
            path=path,
            remedy="put the published list there, or use a split that needs none: prompt-0",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path=path) from error
    names = [line.strip() for line in lines if line.strip()]
    row_of = {name: row for row, name in enumerate(samples.name)}
    unknown = [name for name in names if name not in row_of]
    if unknown:
        raise DataError(
            f"{len(unknown)} names are not in {samples.dataset}: {some(unknown)}", path=path
        )
    return np.array([row_of[name] for name in names], dtype=np.int64)
