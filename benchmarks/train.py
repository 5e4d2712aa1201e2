"""How fast training runs here, beside the official schedule in the same run.

    python benchmarks/train.py --threads 1 --out benchmarks/results

Writes train_<hardware>_<date>.json. For each network: images/s of a training step (views,
forward, loss, backward, clipping, optimiser, moving average) and of an epoch of steps on images
that are decoded already; counted multiply-adds of a step, and the share of the machine's
measured matmul peak that they come to. Weights and pictures are random.

    compact    the default model by its recipe; pictures of 512 x 512
    paper      the paper's network at its real size by the recipe `paper`, and the same by the
               official schedule (`official_schedule.py`): forward, mean squared error, Adam
    tiny       the paper's network made tiny: what the loop itself costs

An epoch is one of `--steps` steps, of the paper's network on a CPU of one; the step is timed
on one batch again and again.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from head import multiply_adds as forward_multiply_adds
from head import side_by_side, training_step
from machine import circumstances, clock, keep, matmul_peak
from official_schedule import OfficialSchedule
from torch.utils.flop_counter import FlopCounterMode

from ma_agiqa.allocator import keep_freed_memory
from ma_agiqa.config import Preprocess
from ma_agiqa.models.compact.model import CompactModel
from ma_agiqa.models.paper.model import MAAGIQA
from ma_agiqa.training.data import TrainingImages, TrainingSet
from ma_agiqa.training.loop import Distributed, Trainer
from ma_agiqa.training.recipe import RECIPES, Recipe
from ma_agiqa.types import RGB

SEMANTIC_WIDTH = 4096
TINY = {"patch_size": 56, "width": 16, "heads": 2, "taps": [0, 1], "stage_widths": [16, 8]}


class RandomPictures(TrainingImages):
    """Random pictures in place of decoded ones."""

    def __init__(self, count: int, *, side: int, preprocess: Preprocess, content_side: int | None):
        super().__init__([], preprocess=preprocess, content_side=content_side)
        self.paths = [Path(str(number)) for number in range(count)]
        rng = np.random.default_rng(0)
        self._pictures = rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)

    def __getitem__(self, position: int) -> RGB:
        return self._pictures[position]


def case(name: str) -> tuple[torch.nn.Module, Recipe, Preprocess, int]:
    """Return network, recipe, preprocessing and side of the pictures of a case."""
    torch.manual_seed(0)
    if name == "compact":
        # AGIQA-3K's pictures have 512 pixels a side.
        return CompactModel(), RECIPES["compact"], Preprocess("native"), 512
    network = MAAGIQA(visual=TINY) if name == "tiny" else MAAGIQA()
    return network, RECIPES["paper"], Preprocess("paper"), 224


def trainer_of(name: str, device: torch.device, *, precision: str, steps: int) -> Trainer:
    network, recipe, preprocess, side = case(name)
    recipe = dataclasses.replace(recipe, epochs=10_000)  # the schedule never ends
    count, rng = steps * recipe.batch_size, np.random.default_rng(0)
    part = TrainingSet(
        images=RandomPictures(
            count, side=side, preprocess=preprocess, content_side=network.content_side
        ),
        scores=rng.uniform(0, 5, count),
        semantics=None if name == "compact" else torch.randn(count, 2, SEMANTIC_WIDTH).half(),
        sets=np.zeros(count, dtype=np.int64),
        names=("random",),
    )
    return Trainer(
        network,
        recipe=recipe,
        train=part,
        val=part,
        seed=0,
        precision=precision,
        distributed=Distributed(str(device)),
    )


def step_of(trainer: Trainer) -> Callable[[], object]:
    """Return one training step, on the same batch each time."""
    positions = list(range(trainer.recipe.batch_size))
    plan = {"seed": (0, 0), "rows": trainer.rows, "distorted": trainer.recipe.distorted}

    def step() -> None:
        trainer.network.train()
        ((_, views),) = trainer.train.batches([positions], trainer.recipe, **plan)
        trainer._step(positions, views)

    return step


def multiply_adds(trainer: Trainer) -> float:
    """Count the multiply-adds of a step in matrix products and convolutions.

    torch counts them as they happen, but for the fused attention of a CPU; the paper's network
    is counted from its shapes, the backward pass as twice the forward pass.
    """
    network = trainer.learner.network
    if isinstance(network, MAAGIQA):
        forward = sum(forward_multiply_adds(network).values())
        return 3 * forward * trainer.recipe.batch_size
    with FlopCounterMode(display=False) as counter:
        step_of(trainer)()
    return counter.get_total_flops() / 2


def measure(
    name: str, device: torch.device, *, precision: str, repeats: int, steps: int
) -> dict[str, Any]:
    """Return the figures of one network in one precision."""
    if name == "paper" and device.type == "cpu":
        steps = 1  # it takes a minute
    trainer = trainer_of(name, device, precision=precision, steps=steps)
    batch = trainer.recipe.batch_size
    counted = multiply_adds(trainer)
    epochs = iter(range(1000))
    works: dict[str, Callable[[], object]] = {
        "step": step_of(trainer),
        "epoch": lambda: trainer.run_epoch(next(epochs)),
    }
    if name == "paper":
        works["official_step"] = official_step(trainer, device, precision)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    walls = side_by_side(works, device, repeats=repeats)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    peak = matmul_peak(device, dtype)
    images = {"step": batch, "official_step": batch, "epoch": batch * trainer.steps_per_epoch}
    found: dict[str, Any] = {
        "batch": batch,
        "steps_per_epoch": trainer.steps_per_epoch,
        "seconds": walls,
        "images_per_s": {key: images[key] / min(times) for key, times in walls.items()},
        "multiply_adds_per_step": counted,
        "peak_multiply_adds_per_s": peak,
        "share_of_peak": round(counted / min(walls["step"]) / peak, 4),
    }
    if device.type == "cuda":
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    if "official_step" in walls:
        found["speedup_over_official"] = min(walls["official_step"]) / min(walls["step"])
    return found


def official_step(trainer: Trainer, device: torch.device, precision: str) -> Callable[[], object]:
    """Return a step of the official schedule on tensors that are ready, by its own recipe."""
    official = OfficialSchedule(MAAGIQA()).to(device).train()
    positions = list(range(trainer.recipe.batch_size))
    images = torch.rand(len(positions), 3, 224, 224, device=device) * 2 - 1
    step = training_step(official, images, *trainer.train.semantics_of(positions, device))

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=["compact", "paper", "tiny"])
    parser.add_argument("--precision", action="append", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="steps of an epoch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", action="append", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, help="folder for the JSON; stdout without it")
    options = parser.parse_args()
    kept = keep_freed_memory()  # as `ma-agiqa train` does
    torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in map(torch.device, options.device or found):
        started = clock(device)
        record = {
            **circumstances(device, threads=options.threads),
            "freed_memory_kept": kept,
            "networks": {
                f"{name}, {precision}": measure(
                    name, device, precision=precision, repeats=options.repeats, steps=options.steps
                )
                for name in options.model or ["compact", "paper", "tiny"]
                for precision in options.precision or ["float32", "bfloat16"]
            },
        }
        record["seconds_in_all"] = clock(device) - started
        keep(record, "train", options.out)


if __name__ == "__main__":
    main()
