"""How row numbers are dealt into parts: shuffles by seed, whole prompts, published lists.

Nothing here knows the name of a split; `splits.py` does. What is dealt depends on the
arguments alone, so a split is the same on every machine and in every run.

Source: the two shuffles are those of the official code of MA-AGIQA: python's for its
`dataset_general`, numpy's for its `split_dataset_koniq10k`, which is MANIQA's.

Shapes: n records; a part is an int64 array of row numbers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ma_agiqa.errors import DataError
from ma_agiqa.text import some

TRAIN_END, VAL_END = 0.7, 0.8  # 7:1:2
VAL_SHARE, TEST_SHARE = 0.1, 0.2

Rows = NDArray[np.int64]


class Parts(NamedTuple):
    """Row numbers of the three parts."""

    train: Rows
    val: Rows
    test: Rows


def seven_one_two(n: int, *, seed: int) -> Parts:
    """Shuffle n rows with python's generator and cut the list 7:1:2."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return Parts(*np.split(np.array(order), [int(n * TRAIN_END), int(n * VAL_END)]))


def eight_two(n: int, *, seed: int) -> Parts:
    """Shuffle n rows with numpy's legacy generator and cut the list 8:2.

    The official code selects on its test part. Here the last tenth of the other part
    validates instead.
    """
    order = np.arange(n)
    np.random.RandomState(seed).shuffle(order)  # deals a list and an array alike
    train_end = int(n * VAL_END)
    val_start = train_end - int(train_end * VAL_SHARE)
    return Parts(*np.split(order, [val_start, train_end]))


def by_prompt(prompts: Sequence[str], *, seed: int) -> Parts:
    """Give whole prompts, shuffled by seed, to test, then to validation, then to training."""
    n = len(prompts)
    generator = random.Random(seed)
    test, rest = hold_out(prompts, np.arange(n), int(n * TEST_SHARE), generator)
    val, train = hold_out(prompts, rest, int(n * VAL_SHARE), generator)
    return Parts(train, val, test)


def hold_out(
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


def listed(names: Sequence[str], path: Path, *, dataset: str) -> Rows:
    """Return the rows of the names in a text file, one a line, in its order.

    Raises:
        DataError: no such file, not readable, or names that are not in the data set.
    """
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
    row_of = {name: row for row, name in enumerate(names)}
    unknown = [name for name in wanted if name not in row_of]
    if unknown:
        raise DataError(f"{len(unknown)} names are not in {dataset}: {some(unknown)}", path=path)
    return np.array([row_of[name] for name in wanted], dtype=np.int64)
