"""Which images train, which select, which judge: the splits that have a name.

    paper           the split of the paper's numbers: `random-20`, or what the data set's entry
                    in the registry says instead
    official        the publisher's own training, validation and test sets
    random-S        7:1:2 by image, python's shuffle with seed S
    random-8-2-S    8:2 by image, numpy's shuffle with seed S; of the eight, a tenth validates
    prompt-S        7:1:2 by prompt, seed S: no prompt in two parts
    ipce-NN         test names in ROOT/splits/ipce-NN-test.txt, published with IPCE; no prompt
                    in two parts
    unseen-NAME     every image of the generator NAME is test; of the others a tenth validates
    SET/NAME        the split NAME of the images in one official set, e.g. training/random-20
    all             every image is test: for models trained on other data

Source: MA-AGIQA (arXiv 2404.17762), official split code; lists published with IPCE.

Kept from the official code: the order of its shuffled lists, and its rounding of the part
sizes. Not kept: its test loader drops the last incomplete batch (5 of the 597 test images
of AGIQA-3K); here every image of a part counts. Nor is anything selected on a test part:
where a protocol has no validation part, ours is taken from its training images.

Shapes: n records; a part is an int64 array of row numbers.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ma_agiqa.data import partitions
from ma_agiqa.data.partitions import VAL_SHARE, Parts, Rows
from ma_agiqa.data.samples import Samples
from ma_agiqa.data.split import PARTS, PROMPT, Split, apart, prompt_overlap, split_of
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.text import hint

__all__ = ["PARTS", "PROMPT", "Rows", "Split", "parse", "prompt_overlap", "resolve"]

OFFICIAL_SETS = ("training", "validation", "test")
GENERATOR = "generator"


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
    raise UsageError(f"unknown split {name!r}{hint(name, _FORMS, 'splits are')}")


def _paper(name: str, groups: Sequence[str], samples: Samples, root: Path) -> Split:
    """Resolve what the split stands for in this data set."""
    return replace(resolve(samples.paper, samples, root), name=name)


def _random(name: str, groups: Sequence[str], samples: Samples, root: Path) -> Split:
    """Shuffle the images by seed and cut the list 7:1:2."""
    seed = int(groups[0])
    protocol = f"7:1:2 by image, python's random shuffle with seed {seed}"
    return split_of(name, protocol, samples, partitions.seven_one_two(len(samples), seed=seed))


def _eight_two(name: str, groups: Sequence[str], samples: Samples, root: Path) -> Split:
    """Shuffle the images by seed and cut the list 8:2."""
    seed = int(groups[0])
    protocol = (
        f"8:2 by image, numpy's random shuffle with seed {seed}; a tenth of the eight validates"
    )
    return split_of(name, protocol, samples, partitions.eight_two(len(samples), seed=seed))


def _by_prompt(name: str, groups: Sequence[str], samples: Samples, root: Path) -> Split:
    """Deal whole prompts."""
    seed = int(groups[0])
    protocol = f"7:1:2 by prompt, seed {seed}: no prompt occurs in two parts"
    parts = partitions.by_prompt(_prompts(samples), seed=seed)
    return apart(split_of(name, protocol, samples, parts), samples)


def _ipce(name: str, groups: Sequence[str], samples: Samples, root: Path) -> Split:
    """Take the published test list; hold out prompts of the rest for validation."""
    path = root / "splits" / f"{name}-test.txt"
    test = partitions.listed(samples.name, path, dataset=samples.dataset)
    rest = np.setdiff1d(np.arange(len(samples)), test)
    generator = random.Random(int(groups[0]))
    images = int(len(samples) * VAL_SHARE)
    val, train = partitions.hold_out(_prompts(samples), rest, images, generator)
    protocol = (
        f"test images as published with IPCE (list {groups[0]}); of the others whole "
        "prompts, seeded by the list's number, a tenth of all images, are validation"
    )
    extra = "IPCE publishes no validation part; ours is taken from its training images"
    return apart(split_of(name, protocol, samples, Parts(train, val, test), extra), samples)


def _unseen(name: str, groups: Sequence[str], samples: Samples, root: Path) -> Split:
    """Test on every image of one generator; hold out prompts of the others for validation."""
    made_by = samples.groups.get(GENERATOR, ())
    if groups[0] not in made_by:
        known = hint(groups[0], sorted(set(made_by)), "there are") if made_by else ""
        raise DataError(f"{samples.dataset} names no generator {groups[0]!r}{known}")
    test, rest = (np.flatnonzero((np.array(made_by) == groups[0]) == own) for own in (True, False))
    prompts = samples.groups.get(PROMPT, samples.name)
    val, train = partitions.hold_out(prompts, rest, int(len(samples) * VAL_SHARE), random.Random(0))
    protocol = f"test is every image of {groups[0]}; of the others whole prompts validate"
    return split_of(name, protocol, samples, Parts(train, val, test))


def _official(name: str, groups: Sequence[str], samples: Samples, root: Path) -> Split:
    """Take the publisher's own sets."""
    protocol = "training, validation and test sets as published with the data set"
    return split_of(name, protocol, samples, Parts(*(_set(samples, key) for key in OFFICIAL_SETS)))


def _within(name: str, groups: Sequence[str], samples: Samples, root: Path) -> Split:
    """Split the images of one official set; the others are in no part."""
    official, inner = groups
    rows = _set(samples, official)
    split = resolve(inner, samples.subset(rows), root)
    return replace(
        split,
        name=name,
        protocol=f"{split.protocol}, of the {len(rows)} images of the official {official} set",
        train=rows[split.train],
        val=rows[split.val],
        test=rows[split.test],
    )


def _whole(name: str, groups: Sequence[str], samples: Samples, root: Path) -> Split:
    """Make every image a test image."""
    none = np.empty(0, dtype=np.int64)
    caveat = "a model trained on any of these images must not be judged on them"
    caveats = (caveat, *samples.caveats)
    everything = np.arange(len(samples))
    return Split(name, "every image is test", caveats, none, none.copy(), everything)


_KINDS: dict[str, Callable[[str, Sequence[str], Samples, Path], Split]] = {
    r"paper": _paper,
    r"official": _official,
    r"random-(\d+)": _random,
    r"random-8-2-(\d+)": _eight_two,
    r"prompt-(\d+)": _by_prompt,
    r"ipce-(\d\d)": _ipce,
    r"unseen-(.+)": _unseen,
    r"(training|validation|test)/(.+)": _within,
    r"all": _whole,
}
_FORMS = (
    *("paper", "official", "random-0", "random-8-2-0", "prompt-0", "ipce-01"),
    *("unseen-GENERATOR", "all"),
)


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


def _set(samples: Samples, official: str) -> Rows:
    """Return the rows of one of the publisher's sets."""
    if samples.official_set is None:
        raise DataError(
            f"{samples.dataset} has no official sets here",
            remedy="add the annotation file that names them: `ma-agiqa datasets show` says which",
        )
    rows = np.flatnonzero(np.array(samples.official_set) == official)
    if len(rows) == 0:
        found = ", ".join(f"{key} {n}" for key, n in sorted(Counter(samples.official_set).items()))
        raise DataError(
            f"{samples.dataset} has no scored images of the official {official} set, only {found}",
            remedy="add its annotation file with scores: `ma-agiqa datasets show` says which",
        )
    return rows
