"""How fast `compact` scores 512x512 JPEGs end to end, and what the machine could do.

    python benchmarks/score.py --images FOLDER [--count 400] [--threads 2] [--out FILE]

One run measures side by side: the whole path (read, decode, prepare, network) for several
batch sizes and worker counts; its parts alone; the multiply-adds the network needs against
the float32 matrix rate that this machine reaches at the same moment; peak memory and cold
start of the command line. Each figure is the median of `--repeats`, with the range beside it.
Without `--images` the sample pictures of this repository are used, as 512x512 JPEG.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import keep
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import ma_agiqa
from ma_agiqa.images import IMAGE_SUFFIXES, read_image
from ma_agiqa.models.preprocess import prepare
from ma_agiqa.provenance import environment

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        files = pick_images(options.images, options.count, Path(scratch))
        report = {
            "what": "score",
            "command": "python " + " ".join(sys.argv),
            **dataclasses.asdict(environment()),
            "threads": options.threads,
            "images": len(files),
            "image_bytes_median": statistics.median(f.stat().st_size for f in files),
            "rates": machine_rates(),
            "network": network_alone(options.repeats),
            "decode_ms_per_image": decode_alone(files),
            "end_to_end": end_to_end(files, options),
            "command_line": command_line(files, options),
        }
    keep(report, "score_compact", options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of 512x512 JPEG files")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for the record")
    return parser.parse_args()


def pick_images(folder: Path | None, count: int, scratch: Path) -> list[Path]:
    """Return `count` 512x512 JPEG files; the sample pictures are repeated as often as needed."""
    if folder is not None:
        return sorted(folder.glob("*.jpg"))[:count]
    pictures = sorted(
        p for p in (REPOSITORY / "examples/pictures").iterdir() if p.suffix in IMAGE_SUFFIXES
    )
    for number in range(count):
        picture = Image.fromarray(read_image(pictures[number % len(pictures)]))
        picture.resize((512, 512)).save(scratch / f"{number:04d}.jpg", quality=92)
    return sorted(scratch.glob("*.jpg"))


def timed(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """Return median, least and greatest wall seconds after one run that warms up."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def machine_rates() -> dict[str, float]:
    """Return the matrix-product rate of this machine now, in GFLOP/s."""
    a = torch.randn(2048, 2048)
    return {"float32": 2 * 2048**3 / timed(lambda: a @ a, 7)["min"] / 1e9}


def network_alone(repeats: int) -> dict[str, float]:
    scorer = ma_agiqa.load("compact", device="cpu")
    batch = torch.rand(1, 3, 512, 512).contiguous(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        scorer.model(batch)
    operations = counter.get_total_flops()

    def forward() -> None:
        with torch.inference_mode():
            scorer.model(batch)

    seconds = timed(forward, repeats * 3)["median"] / len(batch)
    return {
        "numbers": sum(tensor.numel() for tensor in scorer.model.state_dict().values()),
        "multiply_adds_per_image": operations / 2,
        "ms_per_image": seconds * 1e3,
        "gflops": operations / seconds / 1e9,
    }


def decode_alone(files: list[Path]) -> float:
    scorer = ma_agiqa.load("compact", device="cpu")
    some = files[:50]
    run = timed(lambda: [prepare(read_image(f), scorer.config.preprocess) for f in some], 3)
    return run["median"] / len(some) * 1e3


def end_to_end(files: list[Path], options: argparse.Namespace) -> list[dict[str, float]]:
    rows = []
    for batch_size, workers in ((1, 1), (2, 2), (4, 2), (8, 2)):
        scorer = ma_agiqa.load("compact", device="cpu", batch_size=batch_size, workers=workers)
        run = timed(lambda s=scorer: list(s.score(files)), options.repeats)
        rates = {name: len(files) / run[other] for name, other in RATE_OF.items()}
        rows.append({"batch_size": batch_size, "workers": workers, **rates})
    return rows


RATE_OF = {"images_per_s": "median", "images_per_s_least": "max", "images_per_s_most": "min"}


LAUNCHER = (
    "import resource, subprocess, sys; "
    "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)
"""Runs a command and prints its peak memory in kB. A process of its own, because Linux counts
for a child what its parent held when it forked, and this benchmark holds a model."""


def command_line(files: list[Path], options: argparse.Namespace) -> dict[str, float]:
    """Run the installed command on one image and on all, each in a fresh process."""
    command = [sys.executable, "-m", "ma_agiqa", "score", "--quiet"]
    surroundings = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    peaks = []

    def run(*arguments: object) -> None:
        done = subprocess.run(
            [sys.executable, "-c", LAUNCHER, *command, *map(str, arguments)],
            check=True,
            env=surroundings,
            stdout=subprocess.PIPE,
            text=True,
        )
        peaks.append(int(done.stdout))

    cold = timed(lambda: run(files[0]), options.repeats)
    whole = timed(lambda: run(*files), 1)
    return {
        "first_score_s": cold["median"],
        "first_score_s_max": cold["max"],
        "folder_s": whole["median"],
        "folder_images": len(files),
        "peak_memory_mb": max(peaks) / 1024,
    }


if __name__ == "__main__":
    main()
