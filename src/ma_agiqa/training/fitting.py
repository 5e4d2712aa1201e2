"""One fit of the compact model from request to model directory, resumable after any kill.

Data flows: data sets -> images -> statistics of each image and of other views of it -> closed
form, with scores and generators -> model directory. Describing the images is the work; each
description is kept, in OUT/statistics or in a folder that several runs share, and no run
makes it twice. The test part is never read.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ma_agiqa import checkpoints
from ma_agiqa.config import ModelConfig
from ma_agiqa.errors import UsageError
from ma_agiqa.experts import statistics as texture
from ma_agiqa.experts.statistics import WIDTH, statistics_vector
from ma_agiqa.features.content import hash_files
from ma_agiqa.files import atomic_path
from ma_agiqa.training import alike, degrade
from ma_agiqa.training.card import training_card
from ma_agiqa.training.closed_form import arguments_of, fit
from ma_agiqa.training.datasets import DataSet, training_part
from ma_agiqa.training.degrade import degraded_copy
from ma_agiqa.training.images import TrainingImages
from ma_agiqa.training.parts import predict, validation_figures
from ma_agiqa.training.processes import Processes
from ma_agiqa.training.recipe import ClosedForm
from ma_agiqa.training.recode import picture_of, tensor_of
from ma_agiqa.training.record import training_record
from ma_agiqa.training.request import Observer

if TYPE_CHECKING:
    from ma_agiqa.training.folder import Run

EDITION = f"{texture.EDITION}.{degrade.EDITION}.{alike.EDITION}"
"""Of what a description holds; another one is computed anew."""

FITTED = "statistics"
"""Folder of a run in which its descriptions lie."""


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
    statistics, severity = describe(
        train.images,
        recipe,
        seed=run.request.seed,
        folder=run.request.descriptions or run.folder / FITTED,
        described=lambda done: observer.described(done, len(train.images)),
    )
    expert, error = fit(
        statistics,
        severity,
        train.scores,
        recipe,
        low=config.scale.low,
        origins=[origin for one in sets for origin in one.origins("train")],
    )
    predicted = predict(expert.to(processes.device), val, processes=processes)
    figures = validation_figures(val, predicted, [one.name for one in sets])
    line = {"left_out_error": error, **figures, "seconds": time.perf_counter() - started}
    record = training_record(run.start, sets, predicted)
    network = arguments_of(expert)
    config = dataclasses.replace(config, training=record, network=network)
    card = training_card(config, recipe, line, sets[0].split)
    checkpoints.save(run.model, expert.cpu(), config, card=card)
    run.finish(line)
    observer.epoch_finished(line, best=True)


def describe(
    images: TrainingImages,
    recipe: ClosedForm,
    *,
    seed: int,
    folder: Path,
    described: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """Return statistics (n, 1 + c, D) of images and other views, and the views' severities (n, c).

    Of the c views the first `recipe.alike` deserve the image's own score, at severity 0, and
    `recipe.copies` are damaged. What `folder` holds is taken from there, the rest is computed and
    kept in it: one file per image, named by the image's content, seed, number of views and kind
    of statistics.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hashes = hash_files(images.paths)
    kind = f"{seed}-{recipe.alike}-{recipe.copies}-{EDITION}"
    statistics, severity = [], []
    for position, sha in enumerate(hashes):
        path = folder / f"{sha[:32]}-{kind}.safetensors"
        found = _read(path, views=recipe.alike + recipe.copies)
        if found is None:
            (pixels,) = next(images.batches([[position]]))
            found = _describe(pixels, recipe, rng=np.random.default_rng([seed, int(sha[:8], 16)]))
            with atomic_path(path) as temporary:
                save_file(found, temporary)
        statistics.append(found["statistics"])
        severity.append(found["severity"])
        described(position + 1)
    return torch.stack(statistics), torch.stack(severity)


def _describe(pixels: Tensor, recipe: ClosedForm, *, rng: np.random.Generator) -> dict[str, Tensor]:
    """Return statistics (1 + c, D) of an image and its views, and the views' severities (c,)."""
    torch.manual_seed(int(rng.integers(2**62)))
    picture = picture_of(pixels)
    pictures = [picture, *(alike.alike(picture, rng=rng) for _ in range(recipe.alike))]
    views = [tensor_of(view)[None] for view in pictures]
    severity = [0.0] * recipe.alike
    for _ in range(recipe.copies):
        worse, strength = degraded_copy(views[0], rng=rng)
        views.append((worse * 255).round() / 255)
        severity.append(strength)
    with torch.inference_mode():
        statistics = torch.cat([statistics_vector(view.to(pixels.device)) for view in views])
    return {"statistics": statistics.cpu().clone(), "severity": torch.tensor(severity)}


def _read(path: Path, *, views: int) -> dict[str, Tensor] | None:
    """Return what a file holds; None if it is not there or not whole, then it is made anew."""
    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError):
        return None
    expected = {"statistics": (1 + views, WIDTH), "severity": (views,)}
    return found if {n: tuple(t.shape) for n, t in found.items()} == expected else None
