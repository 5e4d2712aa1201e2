"""Which images train, which select, which judge: the splits that have a name.

    paper           the split of the paper's numbers: `random-20`, or what the data set's entry
                    in the registry says instead
    official        the publisher's own training, validation and test sets
    random-S        7:1:2 by image, Python's shuffle with seed S
    random-8-2-S    8:2 by image, NumPy's shuffle with seed S; a tenth of the eight validates
    prompt-S        7:1:2 by prompt, seed S: no prompt in two parts
    ipce-NN         test names in ROOT/splits/ipce-NN-test.txt, published with IPCE; no prompt
                    in two parts
    unseen-NAME     every image of the generator NAME is test; of the others a tenth validates
    SET/NAME        the split NAME of the images in one official set, e.g. training/random-20
    all             every image is test: for models trained on other data

A split depends on these names and the table alone, so it is the same on every machine.

Text-to-image models make many images of one prompt, and these look alike. Where training and
test share prompts a number flatters, so each split measures that on the data and carries it as
a caveat, shown wherever its numbers are.

Source: MA-AGIQA (arXiv 2404.17762), official split code: Python's shuffle is that of its
`dataset_general`, NumPy's that of its `split_dataset_koniq10k`, which is MANIQA's; lists
published with IPCE.

Kept from the official code: the order of its shuffled lists, and its rounding of the sizes.
Not kept: its test loader drops the last incomplete batch (5 of the 597 test images of
AGIQA-3K); here every image of a part counts. Nor is anything selected on a test part: where a
protocol has no validation part, ours is taken from its training images.

Shapes: n records; a part of a split (train, val, test) is an int64 array of row numbers.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ma_agiqa.data.samples import Samples
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.text import did_you_mean, join_some

Rows: TypeAlias = "NDArray[np.int64]"

PARTS = ("train", "val", "test", "all")
PROMPT, GENERATOR = "prompt", "generator"
OFFICIAL_SETS = ("training", "validation", "test")
TRAIN_END, VAL_END = 0.7, 0.8  # 7:1:2
VAL_FRACTION, TEST_FRACTION = 0.1, 0.2


@dataclass(frozen=True, eq=False)
class Split:
    """Three parts of a data set, or of some of it, that share no image.

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
            rows = getattr(self, name)
            if len(np.unique(rows)) != len(rows):
                raise DataError(f"split {self.name}: an image occurs twice in {name}")
            rows.setflags(write=False)

    def part(self, name: str) -> Rows:
        """Return the rows of `train`, `val`, `test`, or of `all` three in ascending order.

        Raises:
            UsageError: another name.
            DataError: the part is empty.
        """
        if name not in PARTS:
            raise UsageError(f"unknown part {name!r}{did_you_mean(name, PARTS, 'there are')}")
        if name == "all":
            return np.sort(np.concatenate([self.train, self.val, self.test]))
        rows: Rows = getattr(self, name)
        if len(rows) == 0:
            raise DataError(f"split {self.name} has no images in its part {name!r}")
        return rows


class _Plan(NamedTuple):
    """What a kind of split decides: the protocol, the rows, and which caveats there are."""

    protocol: str
    train: Rows
    val: Rows
    test: Rows
    caveats: tuple[str, ...] = ()


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
        DataError: the data set lacks what the split needs: list, prompts, sets, enough images.
    """
    if name == "paper":
        return replace(resolve(samples.paper, samples, root), name=name)
    if match := re.fullmatch(rf"({'|'.join(OFFICIAL_SETS)})/(.+)", name):
        return _within(name, *match.groups(), samples=samples, root=root)
    if name == "all":
        caveat = "a model trained on any of these images must not be judged on them"
        none, everything = np.empty(0, dtype=np.int64), np.arange(len(samples))
        caveats = (caveat, *samples.caveats)
        return Split(name, "every image is test", caveats, none, none.copy(), everything)
    for pattern, plan in _KINDS.items():
        if match := re.fullmatch(pattern, name):
            return _split(name, plan(samples, Path(root), *match.groups()), samples)
    raise UsageError(f"unknown split {name!r}{did_you_mean(name, _FORMS, 'splits are')}")


def prompt_overlap(samples: Samples, train: Rows, test: Rows) -> float | None:
    """Return which fraction of test images has a prompt of training; None if unknown."""
    if PROMPT not in samples.groups or len(train) == 0 or len(test) == 0:
        return None
    prompts = samples.groups[PROMPT]
    seen = {prompts[row] for row in train}
    return sum(prompts[row] in seen for row in test) / len(test)


def _split(name: str, plan: _Plan, samples: Samples) -> Split:
    """Return a split with the caveats that the data give it; refuse an empty part."""
    protocol, train, val, test, extra = plan
    caveats = (*_shared_prompts(samples, train, test), *extra, *samples.caveats)
    split = Split(name, protocol, caveats, train, val, test)
    if name.startswith(("prompt-", "ipce-")):
        _require_prompts_apart(split, samples.groups[PROMPT])
    if 0 in (len(train), len(val), len(test)):
        raise DataError(
            f"split {name} of {samples.dataset} has an empty part: {len(train)} train, "
            f"{len(val)} val, {len(test)} test",
            remedy="use more images",
        )
    return split


def _shared_prompts(samples: Samples, train: Rows, test: Rows) -> tuple[str, ...]:
    """Return how many test prompts also occur in training, as a caveat."""
    if samples.photographs:
        return ()
    overlap = prompt_overlap(samples, train, test)
    if overlap is None:
        return ("prompts are unknown, so training and test may share them",)
    if overlap == 0:
        return ()
    if overlap == 1:
        return ("every test prompt also occurs in training: expect less on new prompts",)
    percent = f"{100 * overlap:.1f} %"
    return (f"{percent} of the test images have a prompt that also occurs in training",)


def _require_prompts_apart(split: Split, prompts: Sequence[str]) -> None:
    for one, other in combinations(("train", "val", "test"), 2):
        first, second = ({prompts[i] for i in getattr(split, part)} for part in (one, other))
        shared = first & second
        if shared:
            raise DataError(
                f"split {split.name}: {len(shared)} prompts occur in {one} and {other}: "
                f"{join_some(sorted(shared))}",
                remedy="the list and the annotations do not belong together",
            )


def _random(samples: Samples, root: Path, seed: str) -> _Plan:
    """Shuffle the images with Python's generator and cut the list 7:1:2."""
    n = len(samples)
    order = list(range(n))
    random.Random(int(seed)).shuffle(order)
    protocol = f"7:1:2 by image, python's random shuffle with seed {int(seed)}"
    train, val, test = np.split(np.array(order), [int(n * TRAIN_END), int(n * VAL_END)])
    return _Plan(protocol, train, val, test)


def _eight_two(samples: Samples, root: Path, seed: str) -> _Plan:
    """Shuffle the images with NumPy's legacy generator and cut the list 8:2.

    The official code selects on its test part. Here the last tenth of the other part
    validates instead.
    """
    order = np.arange(len(samples))
    np.random.RandomState(int(seed)).shuffle(order)  # the same order as for a list
    train_end = int(len(samples) * VAL_END)
    val_start = train_end - int(train_end * VAL_FRACTION)
    protocol = (
        f"8:2 by image, numpy's random shuffle with seed {int(seed)}; "
        "a tenth of the eight validates"
    )
    train, val, test = np.split(order, [val_start, train_end])
    return _Plan(protocol, train, val, test)


def _by_prompt(samples: Samples, root: Path, seed: str) -> _Plan:
    """Give whole prompts, shuffled by seed, to test, then to validation, then to training."""
    n, generator = len(samples), random.Random(int(seed))
    prompts = _prompts(samples)
    test, rest = _hold_out(prompts, np.arange(n), int(n * TEST_FRACTION), generator)
    val, train = _hold_out(prompts, rest, int(n * VAL_FRACTION), generator)
    protocol = f"7:1:2 by prompt, seed {int(seed)}: no prompt occurs in two parts"
    return _Plan(protocol, train, val, test)


def _ipce(samples: Samples, root: Path, number: str) -> _Plan:
    """Take the published test list; hold out prompts of the rest for validation."""
    test = _listed(root / "splits" / f"ipce-{number}-test.txt", samples)
    rest = np.setdiff1d(np.arange(len(samples)), test)
    n_val, generator = int(len(samples) * VAL_FRACTION), random.Random(int(number))
    val, train = _hold_out(_prompts(samples), rest, n_val, generator)
    protocol = (
        f"test images as published with IPCE (list {number}); of the others whole "
        "prompts, seeded by the list's number, a tenth of all images, are validation"
    )
    caveat = "IPCE publishes no validation part; ours is taken from its training images"
    return _Plan(protocol, train, val, test, (caveat,))


def _unseen(samples: Samples, root: Path, name: str) -> _Plan:
    """Test on every image of one generator; hold out prompts of the others for validation."""
    generators = samples.groups.get(GENERATOR, ())
    if name not in generators:
        known = did_you_mean(name, sorted(set(generators)), "there are") if generators else ""
        raise DataError(f"{samples.dataset} names no generator {name!r}{known}")
    own = np.array(generators) == name
    test, rest = np.flatnonzero(own), np.flatnonzero(~own)
    prompts = samples.groups.get(PROMPT, samples.name)
    val, train = _hold_out(prompts, rest, int(len(samples) * VAL_FRACTION), random.Random(0))
    protocol = f"test is every image of {name}; of the others whole prompts validate"
    return _Plan(protocol, train, val, test)


def _official(samples: Samples, root: Path) -> _Plan:
    """Take the publisher's own sets."""
    protocol = "training, validation and test sets as published with the data set"
    train, val, test = (_official_rows(samples, name) for name in OFFICIAL_SETS)
    return _Plan(protocol, train, val, test)


def _within(name: str, official: str, inner: str, *, samples: Samples, root: str | Path) -> Split:
    """Split the images of one official set; the others are in no part."""
    rows = _official_rows(samples, official)
    split = resolve(inner, samples.subset(rows), root)
    return replace(
        split,
        name=name,
        protocol=f"{split.protocol}, of the {len(rows)} images of the official {official} set",
        train=rows[split.train],
        val=rows[split.val],
        test=rows[split.test],
    )


_KINDS: dict[str, Callable[..., _Plan]] = {
    r"official": _official,
    r"random-(\d+)": _random,
    r"random-8-2-(\d+)": _eight_two,
    r"prompt-(\d+)": _by_prompt,
    r"ipce-(\d\d)": _ipce,
    r"unseen-(.+)": _unseen,
}
_FORMS = (
    *("paper", "official", "random-0", "random-8-2-0", "prompt-0", "ipce-01"),
    *("unseen-GENERATOR", "all"),
)


def _hold_out(
    prompts: Sequence[str], rows: Rows, images: int, generator: random.Random
) -> tuple[Rows, Rows]:
    """Return (held, rest): whole shuffled prompts until `images` are reached, ascending."""
    members: dict[str, list[int]] = {prompt: [] for prompt in sorted({prompts[i] for i in rows})}
    for row in rows.tolist():
        members[prompts[row]].append(row)
    order = list(members)  # sorted, so that the order of the table does not matter
    generator.shuffle(order)
    held: list[int] = []
    for prompt in order:
        if len(held) >= images:
            break
        held += members[prompt]
    chosen = np.array(sorted(held), dtype=np.int64)
    return chosen, np.setdiff1d(rows, chosen)


def _listed(path: Path, samples: Samples) -> Rows:
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
    wanted = [line.strip() for line in lines if line.strip()]
    row_of = {name: row for row, name in enumerate(samples.name)}
    unknown = [name for name in wanted if name not in row_of]
    if unknown:
        reason = f"{len(unknown)} names are not in {samples.dataset}: {join_some(unknown)}"
        raise DataError(reason, path=path)
    return np.array([row_of[name] for name in wanted], dtype=np.int64)


def _prompts(samples: Samples) -> Sequence[str]:
    """Return the prompt of every image."""
    if PROMPT not in samples.groups:
        raise DataError(
            f"{samples.dataset} has no group {PROMPT!r} to split by",
            remedy=(
                "photographs have no prompts: use a split by image such as random-0"
                if samples.photographs
                else "name its prompt column, or use a split by image such as random-0"
            ),
        )
    prompts = samples.groups[PROMPT]
    if "" in prompts:
        raise DataError(f"{prompts.count('')} images of {samples.dataset} have no prompt")
    return prompts


def _official_rows(samples: Samples, name: str) -> Rows:
    """Return the rows of one of the publisher's sets."""
    if samples.official_set is None:
        raise DataError(
            f"{samples.dataset} has no official sets here",
            remedy="add the annotation file that names them: `ma-agiqa datasets show` says which",
        )
    rows = np.flatnonzero(np.array(samples.official_set) == name)
    if len(rows) == 0:
        found = ", ".join(f"{key} {n}" for key, n in sorted(Counter(samples.official_set).items()))
        raise DataError(
            f"{samples.dataset} has no scored images of the official {name} set, only {found}",
            remedy="add its annotation file with scores: `ma-agiqa datasets show` says which",
        )
    return rows
