"""Scores of published measures whose statistics their packages bring along.

    pip install brisque==0.2.0 pypiqe==1.2 opencv-python-headless "numpy<2"   # its own environment
    python scripts/packaged_peers.py AGIQA-3K/images --out peers

Writes OUT/brisque.csv and OUT/piqe.csv, rows of name and score as `ma-agiqa evaluate --scores`
takes them; lower is better in both. A row is written as soon as it is known, and a second run
goes on where the first ended.

    brisque   BRISQUE (Mittal et al., TIP 2012): natural-scene statistics and the support vector
              regression that the package `brisque` brings; where it gives no number, as for
              large flat areas, 100 is written, the worst of its nominal scale
    piqe      PIQE (Venkatanath et al., NCC 2015): block distortion, nothing learned
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from brisque import BRISQUE
from numpy.typing import NDArray
from PIL import Image
from pypiqe import piqe

Measure = Callable[[NDArray[np.uint8]], float]
WORST = 100.0  # of both scales


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV files")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    paths = sorted(p for p in options.images.iterdir() if p.suffix in {".jpg", ".png"})
    measures: dict[str, Measure] = {
        "brisque": BRISQUE(url=False).score,
        "piqe": lambda pixels: piqe(pixels)[0],
    }
    for name, measure in measures.items():
        write_scores(options.out / f"{name}.csv", paths, measure)


def write_scores(file: Path, paths: list[Path], measure: Measure) -> None:
    """Append a row for each image that has none yet."""
    known: set[str] = set()
    if file.exists():
        with file.open(newline="", encoding="utf-8") as rows:
            known = {row["name"] for row in csv.DictReader(rows)}
    with file.open("a", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        if not known:
            writer.writerow(["name", "score"])
        for path in paths:
            if path.name not in known:
                score = float(np.asarray(measure(np.asarray(Image.open(path).convert("RGB")))))
                writer.writerow([path.name, score if math.isfinite(score) else WORST])
                out.flush()


if __name__ == "__main__":
    main()
