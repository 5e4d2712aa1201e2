"""The images of one part of a split with their human scores, of one data set or several.

Shapes: n images, B images of a batch, K questions, F width of their vectors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ma_agiqa.evaluation.metrics import plcc_raw, srcc
from ma_agiqa.training.images import TrainingImages
from ma_agiqa.training.processes import Processes
from ma_agiqa.transforms import to_unit

FIGURES = {"srcc": srcc, "plcc_raw": plcc_raw}


@dataclass(frozen=True)
class Part:
    """Images of one part of a split with their human scores.

    Attributes:
        scores: shape (n,).
        second: scores of an auxiliary target, shape (n,), or None.
        semantics: vectors of K questions, shape (n, K, F), or None for a network without.
        sets: which data set each image is of, shape (n,), from 0; None where there is one.
    """

    images: TrainingImages
    scores: NDArray[np.float64]
    second: NDArray[np.float64] | None = None
    semantics: Tensor | None = None
    sets: NDArray[np.int64] | None = None

    def semantics_of(self, positions: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
        """Return what the network takes besides images: () or one tensor (B, K, F)."""
        if self.semantics is None:
            return ()
        return (self.semantics[list(positions)].float().to(device),)


def predict(
    model: nn.Module,
    part: Part,
    *,
    processes: Processes,
    precision: str = "float32",
    batch_size: int = 8,
) -> NDArray[np.float64]:
    """Score whole images in order; returns shape (n,). Only equal sizes share a batch.

    Of several processes each scores its share, and all get all scores.
    """
    device = processes.device
    scores = torch.zeros(len(part.images))
    pending: list[tuple[int, Tensor]] = []

    def flush() -> None:
        if not pending:
            return
        positions, images = zip(*pending, strict=True)
        batch = part.images.normalise(to_unit(torch.stack(images))).to(device)
        with torch.inference_mode(), autocast(device, precision):
            output = model(
                batch.contiguous(memory_format=torch.channels_last),
                *part.semantics_of(positions, device),
            )
        scores[list(positions)] = output.score.float().cpu()
        pending.clear()

    own = range(processes.rank, len(part.images), processes.count)
    for position, (image,) in zip(own, part.images.batches([[i] for i in own]), strict=True):
        if len(pending) == batch_size or (pending and image.shape != pending[0][1].shape):
            flush()
        pending.append((position, image))
    flush()
    found: NDArray[np.float64] = processes.total(scores.to(device)).double().cpu().numpy()
    return found


def validation_figures(
    part: Part, predicted: NDArray[np.float64], sets: Sequence[str]
) -> dict[str, float]:
    """Return SRCC and raw PLCC; of several data sets `NAME/SET` of each, and their means."""
    if part.sets is None:
        return {name: figure(part.scores, predicted) for name, figure in FIGURES.items()}
    means, each = {}, {}
    for name, figure in FIGURES.items():
        for number, which in enumerate(sets):
            own = part.sets == number
            each[f"{name}/{which}"] = figure(part.scores[own], predicted[own])
        means[name] = float(np.mean([each[f"{name}/{which}"] for which in sets]))
    return {**means, **each}


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision for `bfloat16`, nothing for `float32`."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
