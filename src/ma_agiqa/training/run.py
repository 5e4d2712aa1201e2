"""One training run from request to model directory, resumable after any kill.

Data flows: registry -> samples -> split -> images in memory -> loop -> model directory. The
test part of the split is never read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ma_agiqa import checkpoints, devices
from ma_agiqa.config import ModelConfig, TrainedOn
from ma_agiqa.data import registry, splits
from ma_agiqa.data.registry import TableColumns
from ma_agiqa.data.samples import Samples, require_images
from ma_agiqa.data.splits import Rows, Split
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.experts.questions import to_record
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.provenance import environment
from ma_agiqa.training.card import training_card
from ma_agiqa.training.folder import Run
from ma_agiqa.training.images import TrainingImages
from ma_agiqa.training.loop import Part, Trainer
from ma_agiqa.training.recipe import Recipe
from ma_agiqa.training.semantics import network_arguments, open_store, vectors_of
from ma_agiqa.training.starts import STARTS, load_backbone, with_arguments
from ma_agiqa.types import Scale

MIN_VALIDATION = 5
"""Fewer images than this have no rank correlation to select by."""


@dataclass(frozen=True)
class TrainRequest:
    """What to train, on what.

    Attributes:
        data: name in the data registry, or a CSV or Parquet table.
        root: folder the data set lies in.
        out: folder of the run.
        model: name in `starts.STARTS`.
        backbone: see `starts.load_backbone`; only for networks that have one.
        store: feature store, for networks that take semantic vectors.
        network: changed arguments of the network, see `starts.with_arguments`.
        split: name of the split; `train` trains, `val` selects, `test` stays unread.
        target: which human score; None takes the data set's own default.
        precision: `auto`, `float32` or `bfloat16`.
    """

    data: str
    root: Path
    out: Path
    recipe: Recipe
    model: str = "compact"
    backbone: str = "published"
    store: Path | None = None
    network: tuple[str, ...] = ()
    split: str = "paper"
    target: str | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    resume: bool = False
    columns: TableColumns = field(default_factory=TableColumns)


class Observer(Protocol):
    """Gets news of a run; the command line draws a progress bar from it."""

    def epoch_started(self, epoch: int, epochs: int) -> None: ...
    def loss(self, running: float) -> None: ...
    def epoch_finished(self, line: dict[str, Any], *, best: bool) -> None: ...
    def note(self, text: str) -> None: ...


def train(request: TrainRequest, *, observer: Observer) -> Path:
    """Run or resume a training; return the model directory of the best epoch.

    Raises:
        UsageError: the folder holds another run, or `resume` finds none or other settings.
        DataError: the data set or the split is incomplete.
        FeatureError: the feature store is damaged or lacks images.
        OutputError: the run folder cannot be written.
    """
    store = open_store(STARTS[request.model], request.store, request.recipe)
    run = Run(request, store)
    samples = registry.load(request.data, request.root, request.columns)
    split = splits.resolve(request.split, samples, request.root)
    config = _model_config(request, samples, split, store)
    trainer = _trainer(request, config, samples, split, store)
    history, best = run.restore(trainer)
    run.tell(observer)
    for epoch in range(len(history), request.recipe.epochs):
        observer.epoch_started(epoch, request.recipe.epochs)
        started = time.perf_counter()
        loss = trainer.run_epoch(epoch, progress=observer.loss)
        line: dict[str, Any] = {"epoch": epoch + 1, "loss": loss, **trainer.validate()}
        line["seconds"] = round(time.perf_counter() - started, 2)
        history.append(line)
        figure = _selected_by(request.recipe, line)
        better = best is None or figure > best
        if better:
            best = figure
            backbone = request.backbone if STARTS[request.model].backbone else None
            card = training_card(config, request.recipe, line, split, backbone=backbone)
            checkpoints.save(run.model, trainer.average, config, card=card)
        run.record(trainer, history, best)
        observer.epoch_finished(line, best=better)
        run.tell(observer)
    return run.model


def _selected_by(recipe: Recipe, line: dict[str, Any]) -> float:
    figure = line["srcc"] if recipe.select == "srcc" else line["srcc"] + line["plcc_raw"]
    return float(figure)


def _model_config(
    request: TrainRequest, samples: Samples, split: Split, store: FeatureStore | None
) -> ModelConfig:
    where = environment()
    target = request.target or next(iter(samples.targets))
    scores = samples.target(target)[split.part("train")]
    if not np.ptp(scores) > 0:
        raise DataError("all training images have the same score: there is nothing to learn")
    scale = samples.scale or Scale(float(scores.min()), float(scores.max()), name=target)
    start = STARTS[request.model]
    network = {**start.network(request.recipe, scale), **network_arguments(store)}
    return ModelConfig(
        name=request.model,
        architecture=start.architecture,
        network=with_arguments(network, request.network),
        preprocess=start.preprocess,
        scale=scale,
        trained_on=TrainedOn(
            dataset=samples.dataset,
            target=target,
            split=request.split,
            images=len(split.train),
            score_quantiles=tuple(np.quantile(scores, np.linspace(0, 1, 101)).tolist()),
        ),
        questions={} if store is None else to_record(store.header.questions),
        encoder={} if store is None else dict(store.header.encoder),
        versions=where.versions,
        commit=where.commit,
    )


def _trainer(
    request: TrainRequest,
    config: ModelConfig,
    samples: Samples,
    split: Split,
    store: FeatureStore | None,
) -> Trainer:
    assert config.trained_on is not None
    target = config.trained_on.target
    others = [name for name in samples.targets if name != target]
    device = devices.resolve(request.device)
    torch.manual_seed(request.seed)
    model = checkpoints.build(config)
    if STARTS[request.model].backbone:
        load_backbone(model, request.backbone)

    if len(split.val) < MIN_VALIDATION:
        raise DataError(
            f"{len(split.val)} validation images cannot select a model, "
            f"{MIN_VALIDATION} are the least",
            remedy="use more images, or another split",
        )

    def part(rows: Rows) -> Part:
        chosen = samples.subset(rows)
        require_images(chosen)
        return Part(
            images=TrainingImages(chosen.path, preprocess=config.preprocess, device=device),
            scores=chosen.target(target),
            second=chosen.target(others[0]) if others else None,
            semantics=vectors_of(store, chosen),
        )

    return Trainer(
        model,
        recipe=request.recipe,
        train=part(split.part("train")),
        val=part(split.part("val")),
        seed=request.seed,
        device=device,
        precision=choose_precision(request.precision, device),
    )


def choose_precision(name: str, device: torch.device) -> str:
    """Return `float32` or `bfloat16`; `auto` takes bfloat16 where the hardware multiplies it."""
    if name not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"unknown precision {name!r}, known: auto, float32, bfloat16")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    fast = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"
