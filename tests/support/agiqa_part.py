"""A part of AGIQA-3K in a folder of its own, for commands that would take too long on all of it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path


def copy_part(agiqa_3k: Path, root: Path, *, every: int) -> list[list[str]]:
    """Copy every n-th image to `root`, with its rows of `data.csv`; return all rows there are."""
    (root / "images").mkdir(parents=True)
    with (agiqa_3k / "data.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    chosen = [rows[0], *rows[1::every]]
    with (root / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows(chosen)
    for row in chosen[1:]:
        shutil.copy(agiqa_3k / "images" / row[0], root / "images")
    return rows
