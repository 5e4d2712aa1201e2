"""One fit of the compact model from request to model directory, resumable after any kill.

Data flows: data sets -> images -> statistics of each image and of damaged copies of it ->
closed form -> model directory. Describing the images is the work; what is described lies in
OUT/statistics, in blocks, and a resumed run takes it from there. The test part is never read.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ma_agiqa import checkpoints
from ma_agiqa.config import ModelConfig
from ma_agiqa.errors import ModelError, UsageError
from ma_agiqa.experts.compact import CompactExpert
from ma_agiqa.experts.statistics import statistics_vector
from ma_agiqa.files import atomic_path
from ma_agiqa.training.card import training_card
from ma_agiqa.training.closed_form import ClosedForm, fit
from ma_agiqa.training.datasets import DataSet, training_part
from ma_agiqa.training.degrade import degraded_copies
from ma_agiqa.training.images import TrainingImages
from ma_agiqa.training.parts import Part, predict, validation_figures
from ma_agiqa.training.processes import Processes
from ma_agiqa.training.record import training_record
from ma_agiqa.training.request import Observer
from ma_agiqa.transforms import to_unit

FITTED = "statistics"
"""Folder of a run in which its descriptions lie."""

if TYPE_CHECKING:
    from ma_agiqa.training.folder import Run

BLOCK = 128
"""Images described between two files: what a kill can cost."""


def fit_run(
    run: Run,
    recipe: ClosedForm,
    config: ModelConfig,
    sets: list[DataSet],
    processes: Processes,
    observer: Observer,
) -> None:
    """Fit in closed form, measure on the validation part, write the model directory."""
    if processes.count > 1:
        raise UsageError("the compact model is fitted by one process: start it without a launcher")
    started = time.perf_counter()
    train, val = (
        training_part(
            sets,
            part,
            preprocess=config.preprocess,
            device=processes.device,
            store=None,
            config=None,
        )
        for part in ("train", "val")
    )
    expert, error = fit_part(
        train,
        recipe,
        low=config.scale.low,
        seed=run.request.seed,
        folder=run.folder / FITTED,
        described=lambda done: observer.described(done, len(train.images)),
    )
    predicted = predict(expert.to(processes.device), val, processes=processes)
    figures = validation_figures(val, predicted, [one.name for one in sets])
    line = {"left_out_error": error, **figures, "seconds": time.perf_counter() - started}
    record = training_record(run.start, sets, predicted)
    regression = expert.regression
    network = {"supports": len(regression.support), "rank": regression.support.shape[1]}
    config = dataclasses.replace(config, training=record, network=network)
    card = training_card(config, recipe, line, sets[0].split)
    checkpoints.save(run.model, expert.cpu(), config, card=card)
    run.finish(line)
    observer.epoch_finished(line, best=True)


def fit_part(
    train: Part,
    recipe: ClosedForm,
    *,
    low: float,
    seed: int,
    folder: Path,
    described: Callable[[int], None],
) -> tuple[CompactExpert, float]:
    """Describe the training images, as far as `folder` does not hold them, and fit.

    Args:
        low: lowest score of the scale.
        folder: where descriptions are kept.
        described: told how many images are done.

    Returns:
        The expert, and the mean squared leave-one-out error of its last step.

    Raises:
        ModelError: a file of the folder is damaged.
        OutputError: it cannot be written.
    """
    statistics, severity = [], []
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(train.images), BLOCK):
        positions = range(start, min(start + BLOCK, len(train.images)))
        path = folder / f"{start:06d}.safetensors"
        if not path.exists():
            block = _describe(train.images, positions, recipe.copies, seed=seed)
            with atomic_path(path) as temporary:
                save_file(block, temporary)
        block = _read(path)
        statistics.append(block["statistics"])
        severity.append(block["severity"])
        described(positions.stop)
    return fit(torch.cat(statistics), torch.cat(severity), train.scores, recipe, low=low)


def _describe(
    images: TrainingImages, positions: range, copies: int, *, seed: int
) -> dict[str, Tensor]:
    """Return statistics (k, 1 + c, D) of images and copies, and severities (k, c)."""
    statistics, severities = [], []
    for position, (pixels,) in zip(
        positions, images.batches([[p] for p in positions]), strict=True
    ):
        # One stream per image: the result depends neither on blocks nor on a resumed run.
        rng = np.random.default_rng([seed, position])
        torch.manual_seed(int(rng.integers(2**62)))
        picture = to_unit(pixels[None])
        worse, severity = degraded_copies(picture.expand(copies, -1, -1, -1), rng=rng)
        views = torch.cat([picture, (worse * 255).round() / 255])
        with torch.inference_mode():
            statistics.append(torch.cat([statistics_vector(view[None]) for view in views]).cpu())
        severities.append(severity.cpu())
    return {"statistics": torch.stack(statistics), "severity": torch.stack(severities)}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        block: dict[str, Any] = load_file(path)
        return {"statistics": block["statistics"], "severity": block["severity"]}
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(
            f"damaged: {error}", path=path, remedy="delete it and resume: it is made again"
        ) from error
