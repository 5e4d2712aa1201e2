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
