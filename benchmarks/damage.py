"""Do scores fall with the strength of damage? Means of Pillow and numpy, not those of training.

    python benchmarks/damage.py --photographs LIVE-ITW [--split random-8-2-0:test] [--count 33]

Our renderings (`examples/pictures/*_0-clean.jpg`) and photographs that the model has not seen are
damaged in fourteen ways at five strengths each. For each picture and kind: the rank correlation
of score and strength, the undamaged picture counted as strength 0; -1 means that every step lowers
the score. Reported is the mean over pictures with its sign turned, by kind and over all. None of
the code below is that of `training/distortions.py`, which the model was trained with.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import circumstances, keep
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

import ma_agiqa
from ma_agiqa.data import datasets, splits
from ma_agiqa.evaluation.metrics import srcc
from ma_agiqa.images import read_image

PICTURES = Path(__file__).resolve().parent.parent / "examples" / "pictures"
STEPS = (1, 2, 3, 4, 5)


def pixels(change: Callable[[np.ndarray, np.random.Generator], np.ndarray], image: Image.Image):
    """Apply a change of float pixels in 0..255; the noise of every strength is the same."""
    changed = change(np.asarray(image, dtype=np.float64), np.random.default_rng(0))
    return Image.fromarray(changed.round().clip(0, 255).astype(np.uint8))


def coded(image: Image.Image, codec: str, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, codec, quality=quality)
    return Image.open(file).convert("RGB")


def reduced(image: Image.Image, ratio: float, kind: Image.Resampling) -> Image.Image:
    small = (max(8, round(image.width / ratio)), max(8, round(image.height / ratio)))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, kind)


def salted(x: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    hit = rng.random(x.shape[:2])[..., None]
    return np.where(hit < share / 2, 0, np.where(hit > 1 - share / 2, 255, x))


DAMAGE: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "gaussian blur": lambda i, s: i.filter(ImageFilter.GaussianBlur(0.7 * s)),
    "box blur": lambda i, s: i.filter(ImageFilter.BoxBlur(s)),
    "median": lambda i, s: i.filter(ImageFilter.MedianFilter(2 * s + 1)),
    "white noise": lambda i, s: pixels(lambda x, r: x + r.normal(0, 7 * s, x.shape), i),
    "grey noise": lambda i, s: pixels(lambda x, r: x + r.normal(0, 7 * s, (*x.shape[:2], 1)), i),
    "multiplied noise": lambda i, s: pixels(
        lambda x, r: x * (1 + r.normal(0, 0.06 * s, x.shape)), i
    ),
    "salt and pepper": lambda i, s: pixels(lambda x, r: salted(x, r, 0.012 * s), i),
    "jpeg": lambda i, s: coded(i, "JPEG", (60, 40, 25, 15, 8)[s - 1]),
    "webp": lambda i, s: coded(i, "WEBP", (60, 40, 20, 8, 1)[s - 1]),
    "posterised": lambda i, s: ImageOps.posterize(i, 6 - s),
    "few colours": lambda i, s: i.quantize((64, 32, 16, 8, 5)[s - 1], dither=0).convert("RGB"),
    "pixelated": lambda i, s: reduced(i, 1 + s, Image.Resampling.NEAREST),
    "reduced and enlarged": lambda i, s: reduced(i, 1 + s, Image.Resampling.BICUBIC),
    "sharpened": lambda i, s: ImageEnhance.Sharpness(i).enhance(1 + 4 * s),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, required=True, help="the data set LIVE-itW")
    parser.add_argument("--split", default="random-8-2-0:test", help="NAME:PART")
    parser.add_argument("--count", type=int, default=33)
    parser.add_argument("--model", default="compact", help="name or directory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for the record")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    samples = datasets.load("live-itw", options.photographs)
    name, part = splits.parse(options.split)
    rows = splits.resolve(name, samples, options.photographs).part(part)[: options.count]
    groups = {
        "renderings": sorted(PICTURES.glob("*_0-clean.jpg")),
        "photographs": list(samples.subset(rows).path),
    }
    scorer = ma_agiqa.load(options.model, device="cpu")
    record: dict[str, object] = {
        "what": "damage",
        **circumstances(torch.device("cpu"), threads=options.threads),
        "model": options.model,
        "split": options.split,
    }
    for group, paths in groups.items():
        falls: dict[str, list[float]] = {kind: [] for kind in DAMAGE}
        steps: dict[str, list[list[float]]] = {kind: [] for kind in DAMAGE}
        for path in paths:
            picture = Image.fromarray(read_image(path))
            whole = float(scorer(picture))
            for kind, damage in DAMAGE.items():
                scores = [whole, *(float(scorer(damage(picture, step))) for step in STEPS)]
                falls[kind].append(-srcc(np.array([0, *STEPS]), np.array(scores)))
                steps[kind].append(scores)
        means = {kind: float(np.mean(values)) for kind, values in falls.items()}
        found = {
            "pictures": len(paths),
            "rank_correlation": float(np.mean(list(means.values()))),
            "by_kind": means,
            "mean_scores": {kind: np.mean(rows, axis=0).tolist() for kind, rows in steps.items()},
        }
        record[group] = found
        print(f"{group}: {found['rank_correlation']:.4f} over {len(paths)} pictures", flush=True)
        for kind, value in means.items():
            print(f"    {kind:22} {value:.3f}  {np.mean(steps[kind], axis=0).round(2)}")
    keep(record, "damage", options.out)


if __name__ == "__main__":
    main()
