"""What the benchmarks share: a clock, the machine's matrix rate, its name, the record's form."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ma_agiqa.provenance import environment


def clock(device: torch.device) -> float:
    """Return seconds of work so far.

    On one CPU thread that is processor time, which other programs on the machine do not add
    to; else wall time, the GPU's queue emptied.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() if single_thread(device) else time.perf_counter()


def single_thread(device: torch.device) -> bool:
    return device.type == "cpu" and torch.get_num_threads() == 1


def timed(work: Callable[[], Any], device: torch.device) -> float:
    start = clock(device)
    work()
    return clock(device) - start


def seconds(work: Callable[[], Any], device: torch.device, *, repeats: int) -> list[float]:
    """Return the time of each repeat, after one that is not counted."""
    return [timed(work, device) for _ in range(repeats + 1)][1:]


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best multiply-adds per second of a large square matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device, dtype=dtype)
    return size**3 / min(seconds(lambda: a @ a, device, repeats=20))


def hardware(device: torch.device) -> str:
    """Return the name of the processor that does the work, cores counted for a CPU."""
    return torch.cuda.get_device_name() if device.type == "cuda" else environment().hardware


def circumstances(device: torch.device, *, threads: int) -> dict[str, Any]:
    """Return what a record says of the run: command, versions, commit, machine, load, date."""
    return {
        "command": " ".join(sys.argv),
        **asdict(environment()),
        "hardware": hardware(device),
        "threads": threads,
        "clock": "processor time" if single_thread(device) else "wall time",
        "load_average": os.getloadavg(),
    }


def keep(record: Mapping[str, Any], what: str, out: Path | None) -> None:
    """Write OUT/WHAT_<hardware>_<date>.json and print its path, or without OUT the record."""
    text = json.dumps(record, indent=2)
    if out is None:
        print(text)
        return
    slug = re.sub(r"[^a-z0-9]+", "-", record["hardware"].lower()).strip("-")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{what}_{slug}_{record['date'][:10]}.json"
    path.write_text(text + "\n", encoding="utf-8")
    print(path)
