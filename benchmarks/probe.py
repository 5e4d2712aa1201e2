"""How long does the probe take, how much memory, and how near is it to the machine's limit?

    PYTHONPATH=src python benchmarks/probe.py --out report.json

Random features with the spectrum of an LMM's (variance falls as one over rank) are written to
a memory-mapped file in float16, as a feature store maps its shards; 7:1:2 of them train, choose
and are predicted. Reading a store and the bootstrap are not part of the time. The flops counted
are those of the Gram matrix's upper half and of the Lanczos products; the machine's rate is that
of one matrix product of the same kind, measured just before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ma_agiqa.evaluation.probe import ALPHAS, RidgePath, fit_ridge
from ma_agiqa.files import write_atomically
from ma_agiqa.provenance import environment

RANK = 256  # of the random features, which beyond it are independent noise


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


def run(options: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """Measure, print and, when asked, write the report."""
    with tempfile.TemporaryDirectory() as folder:
        features, scores = made_up(options, Path(folder) / "features.npy")
        load = os.getloadavg()[0]  # of other programs, where it is not small
        rate = matmul_rate()
        before = peak_bytes()
        train, val = int(0.7 * len(scores)), int(0.8 * len(scores))
        started = time.perf_counter()
        cpu = time.process_time()
        path = fit_ridge(features[:train], scores[:train])
        fitted = time.perf_counter()
        errors = np.square(path.predict(features[train:val]) - scores[train:val, None]).mean(axis=0)
        predicted = path.predict(features[val:])[:, int(errors.argmin())]
        seconds = time.perf_counter() - started
        cpu = time.process_time() - cpu
    flops = counted(path, train, options.features)
    report = {
        "command": shlex.join(["python", "benchmarks/probe.py", *argv]),
        "environment": asdict(environment()),
        "images": options.images,
        "features": options.features,
        "form": path.form,
        "lanczos_steps": path.steps,
        "strengths_asked": len(ALPHAS),
        "strengths_solved": len(path.alphas),
        "strength": path.alphas[int(errors.argmin())],
        "load_average_before": load,
        "seconds": seconds,
        "seconds_fit": fitted - started,
        "seconds_cpu": cpu,
        "flops": flops,
        "machine_flops_per_second": rate,
        "least_seconds_at_machine_rate": flops / rate,
        "share_of_machine_rate": flops / rate / seconds,
        "peak_bytes": peak_bytes(),
        "peak_bytes_before": before,
        "test_correlation": float(np.corrcoef(predicted, scores[val:])[0, 1]),
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.out is not None:
        write_atomically(options.out, text + "\n")
    return report


def made_up(options: argparse.Namespace, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write features (n, D) float16 block by block; return them mapped, and scores (n,)."""
    generator = np.random.default_rng(options.seed)
    shape = (options.images, options.features)
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    spread = 8 / np.arange(1, RANK + 1, dtype=np.float32) ** 0.5
    mixing = generator.normal(size=(RANK, options.features)).astype(np.float32)
    scores = np.empty(options.images)
    for start in range(0, options.images, 1024):
        rows = slice(start, min(start + 1024, options.images))
        size = rows.stop - rows.start
        hidden = generator.standard_normal((size, RANK), dtype=np.float32)
        noise = generator.standard_normal((size, options.features), dtype=np.float32)
        mapped[rows] = (hidden * spread) @ mixing + noise
        scores[rows] = hidden[:, :32].sum(axis=1) + 3 * generator.normal(size=size)
    mapped.flush()
    return np.load(path, mmap_mode="r"), scores


def matmul_rate(size: int = 4096) -> float:
    """Return the flops a second of a float32 product of the shape the Gram matrix takes."""
    z = np.random.default_rng(0).standard_normal((1024, size), dtype=np.float32)
    z.T @ z
    started = time.perf_counter()
    for _ in range(3):
        z.T @ z
    return 3 * 2 * 1024 * size**2 / (time.perf_counter() - started)


def counted(path: RidgePath, n: int, width: int) -> float:
    """Return the flops of the Gram matrix's upper half and of the Lanczos steps."""
    side = min(n, width)
    gram = n * width * side  # two for each of half the entries
    orthogonal = 4 * path.steps**2 * side  # twice against all earlier vectors, two ways
    return float(gram + 2 * side**2 * path.steps + orthogonal)


def peak_bytes() -> int:
    """Return the largest memory this process has held; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    run(arguments(sys.argv[1:]), sys.argv[1:])
