"""How fast the paper's network runs here, beside the official schedule in the same run.

    python benchmarks/head.py --threads 1 --out benchmarks/results

Writes head_<hardware>_<date>.json: images/s of the forward pass and training steps/s, in
float32 and under bfloat16 autocast, on the CPU and on a GPU if there is one; the largest
difference between the two schedules' scores; multiply-adds of each stage and the share of
the machine's measured matmul peak that each stage reaches. Weights are random.
The baseline, `official_schedule.py`, does the official code's work with our parameters.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import circumstances, keep, matmul_peak, seconds, timed
from official_schedule import OfficialSchedule
from torch import Tensor

from ma_agiqa.models.paper.model import MAAGIQA

SEMANTIC_WIDTH = 4096


def side_by_side(
    works: dict[str, Callable[[], Any]], device: torch.device, *, repeats: int
) -> dict[str, list[float]]:
    """Time several works in turns, so that a busy machine slows all of them alike."""
    rounds = [{n: timed(work, device) for n, work in works.items()} for _ in range(repeats + 1)]
    return {name: [times[name] for times in rounds[1:]] for name in works}


def multiply_adds(model: MAAGIQA) -> dict[str, float]:
    """Count the multiply-adds of one image, stage by stage; elementwise work is not counted."""
    vit = model.visual.backbone.vit
    N, D = model.visual.grid**2, vit.embed_dim
    T = N + 1
    counts = {"vit": N * D * vit.patch_embed.proj.weight[0].numel()}
    counts["vit"] += len(vit.blocks) * (12 * T * D * D + 2 * T * T * D)
    for name, stage in (("stage1", model.visual.stage1), ("stage2", model.visual.stage2)):
        width, C = stage.reduce.weight.shape
        counts[f"{name}.attention"] = len(stage.attentions) * (3 * C * N * N + 2 * C * C * N)
        counts[f"{name}.reduce"] = N * C * width
        windows = 0
        for layer in stage.windows.layers:
            hidden = layer.blocks[0].mlp[0].out_features
            tokens = layer.blocks[0].attention.tokens
            block = 4 * width * width + 2 * width * hidden + 2 * tokens * width
            windows += N * (len(layer.blocks) * block + 9 * width * width)
        counts[f"{name}.windows"] = windows
    rest = [model.visual.quality, model.visual.weight]
    counts["heads"] = N * sum(p.numel() for head in rest for p in head.parameters())
    counts["fusion"] = sum(
        p.numel()
        for part in (model.semantic_projections, model.visual_projection, model.mixture)
        for p in part.parameters()
    )
    return {name: float(count) for name, count in counts.items()}


def stage_works(model: MAAGIQA, images: Tensor) -> dict[str, Callable[[], Any]]:
    """Return one callable per stage, each fed with a real input of its own."""
    visual = model.visual
    taps = visual.backbone(images)
    x1_BCN = torch.cat([patches.transpose(1, 2) for patches, _ in taps], dim=1)
    works: dict[str, Callable[[], Any]] = {"vit": lambda: visual.backbone(images)}
    works["concatenate"] = lambda: torch.cat([p.transpose(1, 2) for p, _ in taps], dim=1)
    inputs = {"stage1": x1_BCN}
    stages = (("stage1", visual.stage1), ("stage2", visual.stage2))
    for name, stage in stages:
        x_BCN = inputs[name]
        x_BNC = stage.reduce(x_BCN.transpose(1, 2))
        inputs["stage2"] = stage.windows(x_BNC).transpose(1, 2).contiguous()
        works[f"{name}.attention"] = lambda s=stage, x=x_BCN: [a(x) for a in s.attentions]
        works[f"{name}.reduce"] = lambda s=stage, x=x_BCN: s.reduce(x.transpose(1, 2))
        works[f"{name}.windows"] = lambda s=stage, x=x_BNC: s.windows(x)
    last_BNC = inputs["stage2"].transpose(1, 2)
    works["heads"] = lambda: (visual.quality(last_BNC), visual.weight(last_BNC))
    return works


def training_step(model: torch.nn.Module, images: Tensor, semantics: Tensor) -> Callable[[], None]:
    """Return one step of the paper's recipe: MSE on raw MOS, Adam, everything trained."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-5, weight_decay=1e-5)
    target = torch.full((len(images),), 2.5, device=images.device)

    def step() -> None:
        loss = torch.nn.functional.mse_loss(model(images, semantics).score.float(), target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def measure(device: torch.device, *, batch: int, train_batch: int, repeats: int) -> dict[str, Any]:
    """Return every figure of one device."""
    torch.manual_seed(0)
    model = MAAGIQA().to(device).eval()
    official = OfficialSchedule(model).to(device).eval()
    images = torch.rand(batch, 3, 224, 224, device=device) * 2 - 1
    semantics = torch.randn(batch, 2, SEMANTIC_WIDTH, device=device)
    counts = multiply_adds(model)
    result: dict[str, Any] = {"batch": batch, "train_batch": train_batch}
    result["multiply_adds_per_image"] = {**counts, "total": sum(counts.values())}
    result["multiply_adds_official_schedule"] = sum(counts.values()) + counts["vit"] / 5
    with torch.inference_mode():
        walls: dict[str, list[float]] = {}
        for name, half in (("float32", False), ("bfloat16", True)):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                both = {"ours": model, "official": official}
                works = {k: (lambda m=m: m(images, semantics)) for k, m in both.items()}
                for k, v in side_by_side(works, device, repeats=repeats).items():
                    walls[f"{k}_{name}"] = v
                scores = {k: m(images, semantics).score.float() for k, m in both.items()}
                result[f"scores_{name}"] = {k: score.tolist() for k, score in scores.items()}
                apart = (scores["ours"] - scores["official"]).abs().max().item()
                result[f"largest_score_difference_{name}"] = apart
                peak = matmul_peak(device, torch.bfloat16 if half else torch.float32)
                result[f"peak_multiply_adds_per_s_{name}"] = peak
                stages = {}
                for stage, work in stage_works(model, images).items():
                    wall = min(seconds(work, device, repeats=repeats))
                    share = counts.get(stage, 0.0) * batch / wall / peak
                    stages[stage] = {"seconds": wall, "share_of_peak": round(share, 3)}
                result[f"stages_{name}"] = stages
    result["forward_seconds"] = walls
    result["forward_images_per_s"] = {k: batch / min(v) for k, v in walls.items()}
    rate = result["forward_images_per_s"]
    result["forward_speedup_over_official_float32"] = {
        k: v / rate["official_float32"] for k, v in rate.items()
    }
    if train_batch:
        result["training"] = measure_training(model, official, images, semantics, train_batch)
    return result


def measure_training(
    model: MAAGIQA, official: OfficialSchedule, images: Tensor, semantics: Tensor, batch: int
) -> dict[str, Any]:
    """Return seconds of each training step, and the GPU memory it took."""
    images, semantics = images[:batch], semantics[:batch]
    result: dict[str, Any] = {}
    for name, half in (("float32", False), ("bfloat16", True)):
        for who, net in (("ours", model), ("official", official)):
            net.train()
            step = training_step(net, images, semantics)
            if images.is_cuda:
                torch.cuda.reset_peak_memory_stats()
            with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
                walls = seconds(step, images.device, repeats=2)
            result[f"{who}_{name}"] = {"seconds": walls, "steps_per_s": 1 / min(walls)}
            if images.is_cuda:
                memory = torch.cuda.max_memory_allocated() / 2**30
                result[f"{who}_{name}"]["peak_gib"] = round(memory, 2)
            net.zero_grad(set_to_none=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--train-batch", type=int, default=8, help="0 skips training")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", action="append", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, help="folder for the JSON; stdout without it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in map(torch.device, options.device or found):
        record = {
            **circumstances(device, threads=options.threads),
            **measure(
                device,
                batch=options.batch,
                train_batch=options.train_batch,
                repeats=options.repeats,
            ),
        }
        keep(record, "head", options.out)


if __name__ == "__main__":
    main()
