"""How fast are semantic vectors? Official against cached schedule, in one run.

    python benchmarks/extract.py --config medium --device cpu --threads 1
    python benchmarks/extract.py --config 7b --device cuda
    python benchmarks/extract.py --config 7b --device cuda --load-in 8    8-bit weights
    python benchmarks/extract.py --config 7b --count    only the operations, on no device

Weights are random (speed does not depend on them) and made on the device. Both schedules run
on the same kernels, so the figure is what the schedule saves. The official schedule is the
official script's: per question two forward passes with logits over all positions, of which
one is used. Decoding and preprocessing of images are not part of the time.
A part that fails (out of memory at a batch size) becomes a row with its error.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from machine import hardware, matmul_peak
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ma_agiqa.lmm.mplug_owl2 import MPLUGOwl2, build
from ma_agiqa.lmm.mplug_owl2.checkpoint import empty_model, parse_config, replace_linears
from ma_agiqa.provenance import environment

# The two official prompts as the released tokenizer gives them; -200 is the image.
AFTER = [29871, 319, 1799, 9047, 13566, 29901]
MEANING = [1, 3148, 1001, 29901, 382, 4387, 403, 278, 1881, 1967, 304, 8161, 565, 967, 11029, 338,
           19632, 3368, 2861, 304, 263, 10225, 310, 6593, 1319, 28837, 2793, 29889, 13]  # fmt: skip
COHERENCE = [1, 3148, 1001, 29901, 382, 4387, 403, 565, 278, 1967, 11029, 338, 19632, 3368, 2861,
             304, 5537, 800, 310, 16165, 261, 663, 29889, 13]  # fmt: skip


def configuration(
    *,
    vision: tuple[int, int, int, int],
    abstractor: tuple[int, int, int, int],
    language: tuple[int, int, int, int],
    image_size: int = 448,
) -> dict[str, Any]:
    """Return a config.json mapping; each tuple is (width, layers, heads, hidden width)."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {
        **dict(zip(names, language, strict=True)),
        "vocab_size": 32000,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "visual_config": {
            "visual_model": {
                **dict(zip(names, vision, strict=True)),
                "image_size": image_size,
                "patch_size": 14,
                "layer_norm_eps": 1e-6,
            },
            "visual_abstractor": {
                **dict(zip(names, abstractor, strict=True)),
                "num_learnable_queries": 64,
                "layer_norm_eps": 1e-6,
                "grid_size": image_size // 14,
                "encoder_hidden_size": vision[0],
            },
        },
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": configuration(
        vision=(32, 2, 4, 64), abstractor=(32, 2, 4, 48), language=(64, 2, 4, 128), image_size=56
    ),
    "medium": configuration(
        vision=(256, 6, 4, 1024), abstractor=(256, 6, 4, 704), language=(512, 8, 8, 1376)
    ),
    "7b": configuration(
        vision=(1024, 24, 16, 4096), abstractor=(1024, 6, 16, 2816), language=(4096, 32, 32, 11008)
    ),
}
PROMPTS: dict[str, list[list[int]]] = {
    "tiny": [[*MEANING, -200, *AFTER], [*COHERENCE, -200, *AFTER]],
    # 80 text tokens, as where the official code was timed; the last six follow the image.
    "medium": [[1, *range(first, first + 73), -200, *AFTER] for first in (100, 300)],
    "7b": [[*MEANING, -200, *AFTER], [*COHERENCE, -200, *AFTER]],
}


def random_model(config: dict[str, Any], *, device: torch.device, dtype: torch.dtype) -> MPLUGOwl2:
    """Return the model with weights of variance 1 / fan-in, made on the device."""
    torch.manual_seed(0)
    tensors = {}
    for name, parameter in empty_model(parse_config(config)).named_parameters():
        tensor = torch.empty(parameter.shape, device=device, dtype=dtype)
        if parameter.dim() > 1:
            fan_in = parameter[0].numel()
            tensors[name] = tensor.normal_(std=fan_in**-0.5)
        else:
            tensors[name] = tensor.fill_(0.0 if name.endswith("bias") else 1.0)
    return build(config, tensors)


def official_script(model: MPLUGOwl2, pixels: Tensor, prompts: list[list[int]]) -> Tensor:
    """The official script's work: every question twice, logits each time, (B, K, D)."""
    vectors = []
    for ids in prompts:
        model.lm_head(model.last_hidden(pixels, ids))
        states = model.last_hidden(pixels, ids)
        model.lm_head(states)
        vectors.append(states.float().mean(dim=1))
    return torch.stack(vectors, dim=1)


def cached(model: MPLUGOwl2, pixels: Tensor, prompts: list[list[int]]) -> Tensor:
    """Our work, (B, K, D)."""
    return model.pooled(pixels, prompts, schedule="cached")


Extract = Callable[[MPLUGOwl2, Tensor, list[list[int]]], Tensor]
SCHEDULES: dict[str, Extract] = {"official": official_script, "cached": cached}


def operations(config: dict[str, Any], prompts: list[list[int]]) -> dict[str, int]:
    """Count matrix operations (multiply and add are two) for one image on the meta device.

    The text before the image is not counted for the cached schedule: it is run once.
    """
    model = empty_model(parse_config(config)).to("meta")
    side = model.config.vision.image_size
    pixels = torch.empty(1, 3, side, side, device="meta")
    counts = {}
    cached(model, pixels, prompts)  # keeps the text before the image
    for name, extract in SCHEDULES.items():
        with FlopCounterMode(display=False) as counter:
            extract(model, pixels, prompts)
        counts[name] = counter.get_total_flops()
    return counts


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Time(NamedTuple):
    """Wall clock and this process's CPU time, in seconds."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any], *, device: torch.device) -> Time:
    wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wait(device)
    return Time(time.perf_counter() - wall, time.process_time() - cpu)


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(
    model: MPLUGOwl2, pixels: Tensor, schedules: Sequence[str], *, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Time schedules at one batch size, turn by turn, so that a busy machine hits both."""
    prompts, device = PROMPTS[args.config], pixels.device
    rows: list[dict[str, Any]] = []
    for turn in range(args.repeats + 1):
        for i, schedule in enumerate(schedules):
            if turn == 0:  # warm-up
                rows.append({"schedule": schedule, "batch": len(pixels), "times": []})
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            try:
                extract = SCHEDULES[schedule]
                taken = timed(lambda: extract(model, pixels, prompts), device=device)  # noqa: B023
            except RuntimeError as error:  # out of memory, or a kernel that is not there
                rows[i]["error"] = str(error).splitlines()[0]
                continue
            rows[i]["peak_gb"] = peak_bytes(device) / 1e9
            if turn:
                rows[i]["times"].append(taken)
    return rows


def summarise(row: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Replace a row's times by its figures, each from the fastest turn."""
    times = row.pop("times")
    if times and "error" not in row:
        wall = min(taken.wall for taken in times) / row["batch"]
        cpu = min(taken.cpu for taken in times) / row["batch"]
        # The rate was measured by the same clock: processor time on one thread.
        busy = cpu if report["threads"] == 1 and report["device"] == "cpu" else wall
        achieved = report["operations_per_image"][row["schedule"]] / busy
        row |= {
            "images_per_second": 1 / wall,
            "seconds_per_image": wall,
            "cpu_seconds_per_image": cpu,
            "share_of_matmul_rate": achieved / report["matmul_operations_per_second"],
            "wall_seconds_of_each_turn": [taken.wall for taken in times],
        }
    print_row(row)
    return row


def print_row(row: dict[str, Any]) -> None:
    head = f"{row['schedule']:>8} batch {row['batch']:>3}"
    if "error" in row:
        print(f"{head}  failed: {row['error']}", flush=True)
        return
    print(
        f"{head}  {row['images_per_second']:9.3f} images/s"
        f"  {row['seconds_per_image']:.5f} s/image (cpu {row['cpu_seconds_per_image']:.5f})"
        f"  {100 * row['share_of_matmul_rate']:5.1f} % of matmul rate"
        f"  peak {row['peak_gb']:.2f} GB",
        flush=True,
    )


def quantise(
    model: MPLUGOwl2, pixels: Tensor, *, args: argparse.Namespace
) -> dict[str, float | int]:
    """Quantise the language model's weights; compare the vectors, and the memory of the weights."""
    device, prompts = pixels.device, PROMPTS[args.config]
    before = torch.cuda.memory_allocated(device)
    full = cached(model, pixels, prompts)
    layers = model.model.layers.cpu()
    replace_linears(layers, bits=args.load_in, dtype=pixels.dtype)
    layers.to(device)
    torch.cuda.empty_cache()
    ours = cached(model, pixels, prompts)
    return {
        "bits": args.load_in,
        "gb_of_full_weights": before / 1e9,
        "gb": torch.cuda.memory_allocated(device) / 1e9,
        "min_cosine": torch.nn.functional.cosine_similarity(ours, full, dim=-1).min().item(),
    }


def agreement(model: MPLUGOwl2, pixels: Tensor, prompts: list[list[int]]) -> dict[str, float]:
    """Compare the vectors of both schedules; differences in units of the vectors' deviation."""
    official, ours = (extract(model, pixels, prompts) for extract in SCHEDULES.values())
    difference = (ours - official).abs() / official.std()
    cosine = torch.nn.functional.cosine_similarity(ours, official, dim=-1)
    return {
        "max_difference_in_std": difference.max().item(),
        "mean_difference_in_std": difference.mean().item(),
        "min_cosine": cosine.min().item(),
    }


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", choices=CONFIGS, default="medium")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--load-in", type=int, choices=(8, 4), help="bits of quantised weights")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="further ones, cached")
    parser.add_argument("--official-batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, help="turns after the warm-up")
    parser.add_argument("--count", action="store_true", help="print operations, time nothing")
    parser.add_argument("--out", type=Path, help="JSON file; written after every part")
    args = parser.parse_args(argv)
    args.dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    args.repeats = args.repeats or (5 if args.device == "cuda" else 2)
    args.batch_sizes = args.batch_sizes or ([1, 4, 16, 32, 64] if args.device == "cuda" else [])
    return args


def run(args: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """Measure everything; the report is written after each part."""
    torch.set_num_threads(args.threads)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    prompts, config = PROMPTS[args.config], CONFIGS[args.config]
    report: dict[str, Any] = {
        "what": f"semantic vectors, {args.config} configuration, {len(prompts)} questions",
        "command": shlex.join(["python", "benchmarks/extract.py", *argv]),
        **asdict(environment()),
        "hardware": hardware(device),
        "device": args.device,
        "threads": args.threads,
        "load_average_before": os.getloadavg()[0],
        "dtype": args.dtype,
        "positions": [len(ids) + 64 for ids in prompts],
        "operations_per_image": operations(config, prompts),
        "matmul_operations_per_second": 2 * matmul_peak(device, dtype),
        "rows": [],
    }
    start = time.perf_counter()
    model = random_model(config, device=device, dtype=dtype)
    wait(device)
    report["seconds_to_make_weights"] = time.perf_counter() - start
    report["parameters"] = sum(p.numel() for p in model.parameters())
    print(json.dumps({k: v for k, v in report.items() if k != "rows"}, indent=1), flush=True)
    side = model.config.vision.image_size
    torch.manual_seed(1)
    images = max([args.official_batch, *args.batch_sizes])
    pixels = torch.randn(images, 3, side, side).to(device, dtype)
    if args.load_in is not None:
        report["weights"] = quantise(model, pixels[: args.official_batch], args=args)
        print(json.dumps(report["weights"]), flush=True)
    for batch in [args.official_batch, *args.batch_sizes]:
        both = ("official", "cached") if not report["rows"] else ("cached",)
        rows = measure(model, pixels[:batch], both, args=args)
        report["rows"] += [summarise(row, report) for row in rows]
        write(report, args.out)
    report["speedup"] = speedup(*report["rows"][:2])
    report["agreement"] = agreement(model, pixels[: args.official_batch], prompts)
    print(json.dumps({key: report[key] for key in ("agreement", "speedup")}, indent=1))
    write(report, args.out)
    return report


def speedup(official: dict[str, Any], ours: dict[str, Any]) -> dict[str, float] | None:
    """Return how many times less wall clock and CPU time an image takes."""
    if "error" in official or "error" in ours:
        return None
    keys = {"wall": "seconds_per_image", "cpu": "cpu_seconds_per_image"}
    return {name: official[key] / ours[key] for name, key in keys.items()}


def write(report: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    given = arguments(None)
    if given.count:
        print(json.dumps(operations(CONFIGS[given.config], PROMPTS[given.config])))
    else:
        run(given, sys.argv[1:])
