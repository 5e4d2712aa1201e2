"""How fast `compact` scores 512x512 JPEGs end to end, and what the machine could do.

    python benchmarks/score.py --images FOLDER [--count 400] [--threads 2] [--out FILE]

One run measures side by side: the whole path (read, decode, prepare, network) for several
batch sizes and worker counts; its parts alone; the multiply-adds the network needs against
the float32 matrix rate that this machine reaches at the same moment; peak memory and cold
start of the command line. Each figure is the median of `--repeats`, with the range beside it.
Without `--images` the sample pictures of this repository are used, as 512x512 JPEG.

    python benchmarks/score.py --device cuda [--images FOLDER] [--out FILE]

measures pictures that are decoded already, on a GPU, in batches of 32: `Scorer.score`, and the
network alone in float32, bfloat16 and float16, with the largest difference of a score.
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

import numpy as np
import torch
from machine import circumstances, keep
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import ma_agiqa
from ma_agiqa.devices import full_float32
from ma_agiqa.images import IMAGE_SUFFIXES, read_image
from ma_agiqa.models.preprocess import from_unit, prepare, to_unit
from ma_agiqa.provenance import environment

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        files = pick_images(options.images, options.count, Path(scratch))
        if options.device != "cpu":
            keep(on_gpu(files, options), "score_compact", options.out)
            return
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
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
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
    # With gradients, so that it is made of the operations that the counter knows.
    with FlopCounterMode(display=False) as counter:
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


GPU_BATCH = 32


def on_gpu(files: list[Path], options: argparse.Namespace) -> dict[str, object]:
    """Return images/s from decoded pictures: by the scorer, and by the network in each dtype.

    The time of the network holds the way of the bytes to the GPU and of the scores back.
    """
    device = torch.device(options.device)
    scorer = ma_agiqa.load("compact", device=str(device), batch_size=GPU_BATCH)
    pictures = [read_image(file) for file in files]
    run = timed(lambda: list(scorer.score(pictures)), options.repeats)
    report = {
        "what": "score",
        **circumstances(device, threads=options.threads),
        "images": len(files),
        "batch": GPU_BATCH,
        "scorer_images_per_s": {name: len(files) / run[other] for name, other in RATE_OF.items()},
    }
    host = [
        torch.from_numpy(np.stack(pictures[start : start + GPU_BATCH])).pin_memory()
        for start in range(0, len(pictures) - GPU_BATCH + 1, GPU_BATCH)
    ]
    exact = None
    for dtype in (torch.float32, torch.bfloat16, torch.float16):

        def network(dtype: torch.dtype = dtype) -> torch.Tensor:
            half = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
            with torch.inference_mode(), half, full_float32(device):
                return torch.cat([score_batch(scorer, pixels) for pixels in host]).cpu()

        scores = network()
        exact = scores if exact is None else exact
        run = timed(network, options.repeats * 3)
        report[f"network_{str(dtype).removeprefix('torch.')}"] = {
            **{name: len(scores) / run[other] for name, other in RATE_OF.items()},
            "largest_difference": (scores - exact).abs().max().item(),
        }
    return report


def score_batch(scorer: ma_agiqa.Scorer, pixels: torch.Tensor) -> torch.Tensor:
    """Score a batch of decoded pictures (B, H, W, 3) uint8 in the host's memory."""
    unit = to_unit(pixels.to(scorer.device, non_blocking=True).permute(0, 3, 1, 2))
    return scorer.model(from_unit(unit, scorer.config.preprocess)).score.float()


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
