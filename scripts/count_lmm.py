"""Print the table of docs/lmms.md: what published LMMs cost per image, counted.

    python scripts/count_lmm.py            the table
    python scripts/count_lmm.py --write    into docs/lmms.md

Nothing is run or downloaded: `ma_agiqa.lmm.counting` holds sizes and arithmetic.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ma_agiqa.lmm.counting import PUBLISHED, TOWERS, Sizes, Towers

PAGE = Path(__file__).resolve().parent.parent / "docs/lmms.md"
BEGIN, END = "<!-- counted: begin -->", "<!-- counted: end -->"
LAPTOP_GB, LAPTOP_GIGA = 5.0, 1500
CARD_GB = {"12 GB card": 10.0, "80 GB card": 70.0}
"""Weights that leave room for activations; a laptop also needs few operations."""


def table() -> str:
    """Return the table as Markdown."""
    lines = [
        "| model | parameters | weights, 16 bit | weights, 4 bit | positions of the image "
        "| multiply-adds per image | fits |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [tower_row(tower) for tower in TOWERS]
    lines += [row(sizes) for sizes in sorted(PUBLISHED, key=lambda sizes: sizes.multiply_adds)]
    return "\n".join(lines)


def tower_row(tower: Towers) -> str:
    return (
        f"| `{tower.name}` | {tower.parameters / 1e9:.2f} G | "
        f"{2 * tower.parameters / 1e9:.1f} GB | - | {tower.patches} | "
        f"{tower.multiply_adds / 1e9:,.0f} G | laptop |"
    )


def row(sizes: Sizes) -> str:
    return (
        f"| `{sizes.name}` | {sizes.parameters / 1e9:.2f} G | {sizes.gigabytes():.1f} GB | "
        f"{sizes.gigabytes(4):.1f} GB | {sizes.image_tokens} | "
        f"{sizes.multiply_adds / 1e9:,.0f} G | {place(sizes)} |"
    )


def place(sizes: Sizes) -> str:
    """Return the smallest machine that holds the weights and answers in bearable time."""
    if sizes.gigabytes() <= LAPTOP_GB and sizes.multiply_adds <= LAPTOP_GIGA * 1e9:
        return "laptop"
    for machine, room in CARD_GB.items():
        if sizes.gigabytes() <= room:
            return machine
        if sizes.gigabytes(4) <= room:
            return f"{machine} in 4 bits"
    return "more than one card"


def with_table(page: str) -> str:
    """Return the page with the table between its marks."""
    return re.sub(f"{BEGIN}.*{END}", f"{BEGIN}\n{table()}\n{END}", page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put it into docs/lmms.md")
    if parser.parse_args().write:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
