"""Does the ranking survive another size, a cut, a codec? One model, or one beside another.

    python benchmarks/variants.py --root AGIQA-3K --model compact --model OTHER [--split paper:val]

Human scores are of the pictures as the data set stores them. Each variant of a picture is
judged against the same human score: a part, another size and a light codec should keep the
ranking (SRCC, with its 95 % bootstrap interval) and the level (mean shift, and that of the best
quarter of the pictures); heavy compression should lower the score (share of pictures that
fall). Variants are made by Pillow while running and never stored.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import circumstances, keep
from numpy.typing import NDArray
from PIL import Image

import ma_agiqa
from ma_agiqa.data import datasets, splits
from ma_agiqa.evaluation.bootstrap import bootstrap
from ma_agiqa.evaluation.metrics import srcc
from ma_agiqa.images import read_image


def smaller(share: float) -> Callable[[Image.Image], Image.Image]:
    def variant(picture: Image.Image) -> Image.Image:
        size = (round(picture.width * share), round(picture.height * share))
        return picture.resize(size, Image.Resampling.LANCZOS)

    return variant


def twice(picture: Image.Image) -> Image.Image:
    return picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.BICUBIC)


def recoded(picture: Image.Image, codec: str, *, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, codec, quality=quality)
    return Image.open(file).convert("RGB")


def middle(picture: Image.Image) -> Image.Image:
    left, top = picture.width // 8, picture.height // 8
    return picture.crop((left, top, picture.width - left, picture.height - top))


VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as stored": lambda picture: picture,
    "3/4 of the size": smaller(3 / 4),
    "half the size": smaller(1 / 2),
    "twice the size": twice,
    "the middle, 3/4": middle,
    "JPEG 75": lambda picture: recoded(picture, "JPEG", quality=75),
    "WebP 80": lambda picture: recoded(picture, "WEBP", quality=80),
    "JPEG 30": lambda picture: recoded(picture, "JPEG", quality=30),
    "JPEG 10": lambda picture: recoded(picture, "JPEG", quality=10),
}


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    samples = datasets.load("agiqa-3k", options.root)
    name, part = splits.parse(options.split)
    samples = samples.subset(splits.resolve(name, samples, options.root).part(part))
    pictures = [Image.fromarray(read_image(path)) for path in samples.path]
    mos = samples.target()
    rows = []
    for model in options.model:
        rows += judge(model, pictures, mos, resamples=options.resamples)
    record = {
        "what": "variants",
        **circumstances(torch.device("cpu"), threads=options.threads),
        "split": options.split,
        "images": len(pictures),
        "resamples": options.resamples,
        "rows": rows,
    }
    keep(record, "variants", options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="the data set AGIQA-3K")
    parser.add_argument("--model", action="append", required=True, help="name or directory")
    parser.add_argument("--split", default="paper:test", help="NAME:PART")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="folder for the record")
    return parser.parse_args()


def judge(
    model: str, pictures: Sequence[Image.Image], mos: NDArray[np.float64], *, resamples: int
) -> list[dict[str, Any]]:
    scorer = ma_agiqa.load(model, device="cpu")
    rows: list[dict[str, Any]] = []
    stored = None
    best = mos >= np.quantile(mos, 0.75)
    for name, variant in VARIANTS.items():
        scores = np.array([scorer(variant(picture)).score for picture in pictures])
        stored = scores if stored is None else stored
        interval = bootstrap(srcc, mos, scores, resamples=resamples)
        row = {
            "model": model,
            "variant": name,
            "srcc": {"value": interval.value, "low": interval.low, "high": interval.high},
            "shift": float((scores - stored).mean()),
            "shift_of_the_best": float((scores - stored)[best].mean()),
            "lower": float((scores < stored).mean()),
        }
        rows.append(row)
        print(
            f"{model:24} {name:16} SRCC {interval.value:.4f} [{interval.low:.4f}, "
            f"{interval.high:.4f}]  shift {row['shift']:+.2f}  "
            f"of the best {row['shift_of_the_best']:+.2f}  lower {row['lower']:.2f}",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
