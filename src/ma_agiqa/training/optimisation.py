"""Optimisers and learning-rate schedules of the recipes.

The rate is a pure function of the step, so a resumed run needs no schedule state.

Source of `paper`: official main.py, `CosineAnnealingLR(T_max=50)` stepped after every batch:
the rate falls to zero in 50 steps, climbs back in 50, and so on for the whole run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ma_agiqa.errors import UsageError
from ma_agiqa.training.recipe import Recipe

PAPER_PERIOD = 50  # steps from the peak to zero

_BLOCK = re.compile(r"backbone\.vit\.blocks\.(\d+)\.")
_BACKBONE = re.compile(r"(^|\.)backbone\.")


def build_optimiser(
    model: nn.Module, extra: Iterable[nn.Parameter], recipe: Recipe
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over the trainable parameters; rates are set each step."""
    freeze(model, recipe)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    named += [("extra", parameter) for parameter in extra]
    # One pass over the weights instead of a dozen. It rounds differently, so not on a CPU,
    # where a run repeats those of earlier versions bit for bit.
    fused = all(p.is_cuda for _, p in named) or None
    if recipe.optimiser == "adam":
        return torch.optim.Adam(_groups(named, recipe, decay_all=True), lr=0.0, fused=fused)
    return torch.optim.AdamW(_groups(named, recipe, decay_all=False), lr=0.0, fused=fused)


def freeze(model: nn.Module, recipe: Recipe) -> None:
    """Stop the gradient of what the recipe does not train."""
    if recipe.freeze == "none":
        return
    frozen = [p for n, p in model.named_parameters() if _BACKBONE.search(n)]
    if not frozen:
        raise UsageError("recipe: freeze=backbone, but this model has no backbone")
    for parameter in frozen:
        parameter.requires_grad_(False)


def enable_checkpointing(model: nn.Module) -> None:
    """Make the vision transformer recompute its activations in the backward pass."""
    transformers: list[Any] = [m for m in model.modules() if hasattr(m, "set_grad_checkpointing")]
    if not transformers:
        raise UsageError("recipe: checkpointing, but this model has no vision transformer")
    for transformer in transformers:
        transformer.set_grad_checkpointing()


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Return the rate of step `step` (from 0) of `total`."""
    if recipe.schedule == "paper":
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / PAPER_PERIOD))
    warmup = max(1, int(total * recipe.warmup))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    past = (step - warmup) / max(1, total - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * past))


def _groups(
    named: list[tuple[str, nn.Parameter]], recipe: Recipe, *, decay_all: bool
) -> list[dict[str, Any]]:
    """Group parameters by decay and by their share of the rate; order follows the model."""
    last = max((int(m.group(1)) for n, _ in named if (m := _BLOCK.search(n))), default=0)
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in named:
        decayed = decay_all or parameter.ndim > 1
        share = _share(name, last, recipe.layer_decay)
        group = groups.setdefault(
            (decayed, share),
            {"params": [], "weight_decay": recipe.weight_decay * decayed, "share": share},
        )
        group["params"].append(parameter)
    return list(groups.values())


def _share(name: str, last: int, decay: float) -> float:
    """Return the factor on the rate: 1 above the vision transformer, less the deeper inside."""
    block = _BLOCK.search(name)
    if block:
        return decay ** (last + 1 - int(block.group(1)))
    return decay ** (last + 2) if _BACKBONE.search(name) else 1.0
