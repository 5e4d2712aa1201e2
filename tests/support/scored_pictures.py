"""A small data set that can be learned: pictures whose score falls with their noise."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image


def write(root: Path, *, count: int = 60, low: float = 1.0, high: float = 5.0) -> Path:
    """Write `count` pictures of two sizes and their table; return the table."""
    rng = np.random.default_rng(0)
    with (root / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "score"])
        for number in range(count):
            noise = number / count
            size = (48, 40) if number % 2 else (40, 40)
            pixels = 128 + rng.normal(0, 80 * noise + 1, (*size, 3))
            name = f"{number:02d}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name)
            writer.writerow([name, high - (high - low) * noise])
    return root / "scores.csv"
