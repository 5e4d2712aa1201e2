"""How fast onnxruntime scores exported pictures, beside torch.

    python benchmarks/export.py --exported DIR [--images FOLDER] [--count 100] [--out FOLDER]

DIR is what `ma-agiqa export` wrote of `compact`. Pictures are decoded once; in each round first one
and then the other prepares and scores all of them, images side by side on all cores. Figures are
the median over rounds, with the range beside it, and how far scores differ.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from machine import circumstances, keep

import ma_agiqa
from ma_agiqa.images import is_image_path, read_image
from ma_agiqa.types import RGB

PICTURES = Path(__file__).resolve().parent.parent / "examples/pictures"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exported", type=Path, required=True)
    parser.add_argument("--images", type=Path, default=PICTURES)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for the record")
    options = parser.parse_args()
    files = [path for path in sorted(options.images.iterdir()) if is_image_path(path)]
    pictures = [read_image(path) for path in files[: options.count]]
    scorers = {
        "torch": ma_agiqa.load("compact", device="cpu"),
        "onnxruntime": ma_agiqa.load(options.exported),
    }
    scores = {name: run(scorer, pictures)[1] for name, scorer in scorers.items()}  # warms up
    rates: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(options.rounds):
        for name, scorer in scorers.items():
            rates[name].append(len(pictures) / run(scorer, pictures)[0])
    report = {
        "what": "export",
        **circumstances(torch.device("cpu"), threads=scorers["torch"].workers),
        "clock": "wall time",
        "onnxruntime": onnxruntime.__version__,
        "images": len(pictures),
        "pixels_median": statistics.median(rgb.shape[0] * rgb.shape[1] for rgb in pictures),
        "images_per_s": {
            name: {"median": statistics.median(own), "min": min(own), "max": max(own)}
            for name, own in rates.items()
        },
        "score_difference_max": float(np.abs(np.subtract(*scores.values())).max()),
    }
    keep(report, "export_compact", options.out)


def run(scorer: ma_agiqa.Scorer, pictures: list[RGB]) -> tuple[float, list[float]]:
    """Score all pictures; return seconds and scores."""
    start = time.perf_counter()
    scores = [float(one) for one in scorer.score(pictures)]
    return time.perf_counter() - start, scores


if __name__ == "__main__":
    main()
