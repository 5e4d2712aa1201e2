"""The paper's network filled by the weight rule of `reference.py`, full-size and tiny."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ma_agiqa.models.mixture import Mixture
from ma_agiqa.models.paper.convert import official_name
from ma_agiqa.models.paper.model import MAAGIQA
from support import reference

WEIGHT_SEED, INPUT_SEED = 0, 7


def images(count: int, size: int, *, seed: int = INPUT_SEED) -> Tensor:
    """Return float32 images (count, 3, size, size) within -1..1: a wave plus noise."""
    return torch.from_numpy(reference.images(count, size, seed))


@contextmanager
def stages_of(model: MAAGIQA) -> Iterator[dict[str, Tensor]]:
    """Collect what every stage gives in a forward pass within the block, by name."""
    stages: dict[str, Tensor] = {}
    hooks = []

    def keep(module: nn.Module, *names: str) -> None:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs = (output,) if isinstance(output, Tensor) else output
            stages.update(zip(names, outputs, strict=True))

        hooks.append(module.register_forward_hook(hook))

    def keep_taps(module: nn.Module, inputs: Any, taps: Any) -> None:
        for tap, (patches, class_token) in zip(model.visual.backbone.taps, taps, strict=True):
            stages[f"block{tap}"] = torch.cat([class_token, patches], dim=1)

    def keep_mixture(module: nn.Module, inputs: Any, mixture: Mixture) -> None:
        stages["evidence"], stages["gate"] = inputs[0], mixture.gate
        stages["blend"] = mixture.blend

    for name, stage in (("stage1", model.visual.stage1), ("stage2", model.visual.stage2)):
        for number, attention in enumerate(stage.attentions):
            keep(attention, f"{name}.attention{number}")
        keep(stage.reduce, f"{name}.reduced")
        keep(stage.windows, f"{name}.windowed")
    keep(model.visual, "quality", "weight", "patches")
    hooks.append(model.visual.backbone.register_forward_hook(keep_taps))
    hooks.append(model.mixture.register_forward_hook(keep_mixture))
    try:
        yield stages
    finally:
        for hook in hooks:
            hook.remove()


def semantic_vector(tag: str, count: int, width: int, *, seed: int = INPUT_SEED) -> Tensor:
    """Return float32 features (count, 1, width)."""
    values = reference.rng(tag, seed).standard_normal((count, 1, width))
    return torch.from_numpy(values.astype(np.float32))


def semantics(count: int = 2, width: int = 4096) -> Tensor:
    """Return the two semantic vectors of the fixtures, (count, 2, width)."""
    return torch.cat([semantic_vector(tag, count, width) for tag in ("tensor1", "tensor2")], dim=1)


def official_entries(fixtures: Path) -> list[dict[str, Any]]:
    """Return name, shape, kind and norm flag of every entry of the official state dict."""
    return json.loads((fixtures / "ma_agiqa_state_dict.json").read_text())["entries"]


def official_state(
    fixtures: Path, *, gains: dict[str, float] | None = None, dead: bool = False
) -> dict[str, Tensor]:
    """Return an official state dict filled by the weight rule, without its buffers.

    Args:
        gains: factor for some names; the `tame` fixture has them.
        dead: fill the dead weights too instead of leaving them out; slower.
    """
    return {
        entry["name"]: torch.from_numpy(
            reference.weight(
                entry["name"],
                entry["shape"],
                WEIGHT_SEED,
                norm=entry["norm_weight"],
                gain=(gains or {}).get(entry["name"], 1.0),
            )
        )
        for entry in official_entries(fixtures)
        if entry["kind"] == "parameter" and (dead or entry["live"])
    }


TINY: dict[str, Any] = {
    "semantics": 2,
    "semantic_width": 12,
    "visual": {
        "image_size": 32,
        "patch_size": 4,
        "width": 16,
        "heads": 2,
        "taps": [1, 2],
        "stage_widths": [16, 8],
        "window_heads": 2,
        "window_mlp": 16,
    },
}
"""Arguments of a network with every part of the paper's, small enough for any machine."""

TINY_SEED = 4
"""Of the first eight seeds the one whose score leans most on the visual expert; with 0 the
tiny network's patch qualities are all cut to zero and its stages guard nothing."""

TINY_GAINS = {"c_q": 0.25, "c_k": 0.25}
"""Keeps channel attention well conditioned in float32, like the `tame` fixture."""


def tiny_model(**changes: Any) -> MAAGIQA:
    """Return the tiny network, filled by the weight rule under official names, in eval mode."""
    model = MAAGIQA(**{**TINY, **changes}).eval()
    for own, parameter in model.named_parameters():
        name = official_name(own)
        gain = next((g for part, g in TINY_GAINS.items() if part in name), 1.0)
        norm = ".norm" in name and name.endswith(".weight")
        values = reference.weight(name, parameter.shape, TINY_SEED, norm=norm, gain=gain)
        parameter.data.copy_(torch.from_numpy(values))
    return model


def tiny_inputs(count: int = 2) -> tuple[Tensor, Tensor]:
    """Return images and semantics that fit the tiny network."""
    return images(count, 32), semantics(count, 12)
