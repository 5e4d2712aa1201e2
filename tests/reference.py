"""The rules by which the reference outputs were made, and a network filled by them.

The recorded fixtures come from the official code with weights and inputs drawn by a rule
from their names; see README.md beside the fixtures. Nothing of the official code is needed.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ma_agiqa.convert import official_name
from ma_agiqa.model import MAAGIQA

WEIGHT_SEED, INPUT_SEED = 0, 7


def generator(tag: str, seed: int) -> np.random.Generator:
    """Return the random generator that belongs to a name."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(tag.encode()) + seed))


def weight(
    name: str, shape: tuple[int, ...], *, seed: int = WEIGHT_SEED, norm: bool, gain: float = 1.0
) -> np.ndarray:
    """Return the float32 entry `name` of a state dict; `norm` marks weights of norm layers."""
    values = generator(name, seed).standard_normal(shape)
    if norm:
        values = 1.0 + 0.1 * values
    elif len(shape) >= 2:
        values = values * (1.0 / np.sqrt(np.prod(shape[1:], dtype=np.float64)))
    else:
        values = 0.1 * values
    if gain != 1.0:
        values = gain * values
    return values.astype(np.float32)


def images(count: int, size: int, *, seed: int = INPUT_SEED) -> Tensor:
    """Return float32 images (count, 3, size, size) within -1..1: a wave plus noise."""
    source = generator("images", seed)
    frequency = source.uniform(0.5, 4.0, (count, 3, 2))
    phase = source.uniform(0.0, 2 * np.pi, (count, 3, 1, 1))
    noise = source.standard_normal((count, 3, size, size))
    t = np.arange(size, dtype=np.float64) / size
    rows = frequency[:, :, 0, None, None] * t[None, None, :, None]
    columns = frequency[:, :, 1, None, None] * t[None, None, None, :]
    wave = np.sin(2 * np.pi * (rows + columns) + phase)
    return torch.from_numpy(np.clip(0.6 * wave + 0.25 * noise, -1.0, 1.0).astype(np.float32))


def semantic_vector(tag: str, count: int, width: int, *, seed: int = INPUT_SEED) -> Tensor:
    """Return float32 features (count, 1, width)."""
    values = generator(tag, seed).standard_normal((count, 1, width))
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
            weight(
                entry["name"],
                tuple(entry["shape"]),
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
        values = weight(name, tuple(parameter.shape), seed=TINY_SEED, norm=norm, gain=gain)
        parameter.data.copy_(torch.from_numpy(values))
    return model


def tiny_inputs(count: int = 2) -> tuple[Tensor, Tensor]:
    """Return images and semantics that fit the tiny network."""
    return images(count, 32), semantics(count, 12)
