"""One training run from request to model directory, resumable after any kill.

Data flows: registry -> samples -> split -> images in memory -> loop -> model directory. The
test part of the split is never read. Of several processes the first alone writes.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ma_agiqa.config import ModelConfig, TrainedOn
from ma_agiqa.data.samples import TableColumns
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.features.source import questions_of
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.lmm.encoder import to_record
from ma_agiqa.models import checkpoint
from ma_agiqa.models.preprocess import to_chw, to_unit
from ma_agiqa.provenance import environment
from ma_agiqa.training.data import DataSet, Source, load_sets, training_part
from ma_agiqa.training.loop import Distributed, Trainer
from ma_agiqa.training.network import (
    Start,
    check_arguments,
    find_start,
    initial_network,
    network_arguments,
    open_store,
    with_arguments,
)
from ma_agiqa.training.recipe import Recipe
from ma_agiqa.training.run_dir import Run, interval_of, training_card, training_record


@dataclass(frozen=True)
class TrainRequest:
    """What to train, on what.

    Attributes:
        data: name in the data registry, or a CSV, Parquet or Excel table.
        root: folder the data set lies in.
        out: folder of the run.
        model: name in `registry.MODELS`, or a model directory or Hub id to be fine-tuned.
        backbone: start of a new network's trunk, see `QualityNetwork.load_backbone`; None is
            `published`.
        store: feature store, for networks that take semantic vectors.
        network: changed arguments of the network, see `network.with_arguments`.
        split: name of the split; `train` trains, `val` selects, `test` stays unread.
        target: which human score; None takes the data set's own default.
        also: further data sets to learn from; the model's scale is that of `data`.
        precision: `auto`, `float32` or `bfloat16`, see `choose_precision`.
    """

    data: str
    root: Path
    out: Path
    recipe: Recipe
    model: str = "compact"
    backbone: str | None = None
    store: Path | None = None
    network: tuple[str, ...] = ()
    split: str = "paper"
    target: str | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    resume: bool = False
    also: tuple[Source, ...] = ()
    columns: TableColumns = field(default_factory=TableColumns)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"a seed lies in 0 to 2^63 - 1, got {self.seed}")


class Observer(Protocol):
    """Gets news of a run; the command line draws a progress bar from it."""

    def epoch_started(self, epoch: int, epochs: int) -> None: ...
    def loss(self, running: float) -> None: ...
    def epoch_finished(self, line: dict[str, Any], *, best: bool) -> None: ...
    def note(self, text: str) -> None: ...


TUNED = "-tuned"
"""What the name of a fine-tuned model ends in."""

CALIBRATED = 400
"""Training images that a new network is calibrated on."""


def is_first() -> bool:
    """Say whether this is the process that writes and talks; known before torch is loaded."""
    return int(os.environ.get("RANK", "0")) == 0


class Silence:
    """The observer of a process that is not the first."""

    def epoch_started(self, epoch: int, epochs: int) -> None: ...
    def loss(self, running: float) -> None: ...
    def epoch_finished(self, line: dict[str, Any], *, best: bool) -> None: ...
    def note(self, text: str) -> None: ...


def train(request: TrainRequest, *, observer: Observer) -> Path:
    """Run or resume a training; return the model directory of the best epoch.

    Under a launcher every process calls this, and only the first one's observer hears of it.

    Raises:
        UsageError: the folder holds another run, or `resume` finds none or other settings.
        DataError: a data set or its split is incomplete, or does not fill a batch.
        FeatureError: the feature store is damaged, lacks images, or is of another model.
        ModelError: the model to be fine-tuned is damaged.
        OutputError: the run folder cannot be written.
    """
    distributed = Distributed(request.device)
    distributed.rows(request.recipe)  # what is wrong is said before pictures are decoded
    recipe = request.recipe
    precision = choose_precision(
        request.precision, distributed.device, mixed=recipe.mixed_precision
    )
    request = dataclasses.replace(request, precision=precision)  # a run resumes in the same one
    start = find_start(request.model)
    if start.directory is None:
        request = dataclasses.replace(request, backbone=request.backbone or "published")
    elif request.network:
        raise UsageError("a trained model brings its own network: leave out --network")
    elif request.backbone is not None:
        raise UsageError("a trained model brings its own weights: leave out --backbone")
    check_arguments(start, request.network)
    if (recipe.views == "local") != (start.architecture == "compact"):
        raise UsageError(
            f"this recipe does not fit {request.model}", remedy=f"--recipe {start.recipe}"
        )
    store = open_store(start, request.store)
    observer = observer if distributed.first else Silence()
    with closing(Run(request, store, start=start, first=distributed.first)) as run:
        sets = load_sets(
            [Source(request.data, request.root, request.split), *request.also],
            target=request.target,
            columns=request.columns,
            scale=None if start.config is None else start.config.scale,
        )
        count = sum(len(one.split.train) for one in sets)
        if count < recipe.batch_size:
            raise DataError(
                f"{count} training images do not fill a batch of {recipe.batch_size}",
                remedy="--set batch_size=N",
            )
        config = _model_config(request, start, sets, store)
        trainer = _trainer(request, recipe, start, config, sets, store, distributed)
        run.begin(sets)
        _run_epochs(run, recipe, trainer, config, sets, observer)
    distributed.close()
    return run.model


def _run_epochs(
    run: Run,
    recipe: Recipe,
    trainer: Trainer,
    config: ModelConfig,
    sets: list[DataSet],
    observer: Observer,
) -> None:
    history, best = run.restore(trainer)
    run.tell(observer)
    for epoch in range(len(history), recipe.epochs):
        observer.epoch_started(epoch, recipe.epochs)
        started = time.perf_counter()
        loss = trainer.run_epoch(epoch, progress=observer.loss)
        line: dict[str, Any] = {"epoch": epoch + 1, "loss": loss, **trainer.validate()}
        line["seconds"] = round(time.perf_counter() - started, 2)
        history.append(line)
        figure = _selected_by(recipe, line)
        better = best is None or _is_better(figure, best)
        if better:
            best = figure
        if trainer.distributed.first:
            if better:
                _save(run, trainer, config, sets, line)
            run.record(trainer, history, best)
        observer.epoch_finished(line, best=better)
        run.tell(observer)


def _save(
    run: Run, trainer: Trainer, config: ModelConfig, sets: list[DataSet], line: dict[str, Any]
) -> None:
    """Write the model directory of the best epoch so far."""
    record = training_record(run.start, sets, trainer.predicted)
    interval = interval_of(sets[0], trainer.predicted)
    config = dataclasses.replace(config, training=record, interval=interval)
    card = training_card(
        config,
        run.request.recipe,
        line,
        sets[0].split,
        precision=trainer.precision,
        backbone=run.request.backbone,
    )
    checkpoint.save(run.model, trainer.kept, config, card=card)


def _is_better(figure: float, best: float) -> bool:
    """Say whether an epoch is better than the best one; any number is better than NaN."""
    return figure > best or (math.isnan(best) and not math.isnan(figure))


def _selected_by(recipe: Recipe, line: dict[str, Any]) -> float:
    if recipe.select == "last":
        return float(line["epoch"])
    figure = line["srcc"] if recipe.select == "srcc" else line["srcc"] + line["plcc_raw"]
    return float(figure)


def _model_config(
    request: TrainRequest, start: Start, sets: list[DataSet], store: FeatureStore | None
) -> ModelConfig:
    where, first = environment(), sets[0]
    scores = first.to_model(first.scores("train"))
    name, scale = request.model, first.scale
    network = {**start.network(request.recipe.drop, scale, len(sets))}
    if start.config is None:
        network = with_arguments({**network, **network_arguments(store)}, request.network)
    else:
        name, scale = f"{start.config.name.removesuffix(TUNED)}{TUNED}", start.config.scale
    return ModelConfig(
        name=name,
        architecture=start.architecture,
        network=checkpoint.complete(start.architecture, network),
        preprocess=start.preprocess,
        scale=scale,
        trained_on=TrainedOn(
            dataset=first.samples.dataset,
            target=first.target,
            split=request.split,
            images=len(first.split.train),
            score_quantiles=tuple(np.quantile(scores, np.linspace(0, 1, 101)).tolist()),
        ),
        questions={} if store is None else to_record(questions_of(store, start.config)),
        encoder={} if store is None else dict(store.header.encoder),
        versions=where.versions,
        commit=where.commit,
    )


def _trainer(
    request: TrainRequest,
    recipe: Recipe,
    start: Start,
    config: ModelConfig,
    sets: list[DataSet],
    store: FeatureStore | None,
    distributed: Distributed,
) -> Trainer:
    torch.manual_seed(request.seed)
    model = initial_network(start, config, backbone=request.backbone)
    if 1 < model.readouts < len(sets):
        raise UsageError(
            f"the model has readouts for {model.readouts} data sets, not for {len(sets)}",
            remedy="train a new network",
        )
    train, val = (
        training_part(
            sets,
            part,
            preprocess=config.preprocess,
            content_side=model.content_side,
            store=store,
            config=start.config,
        )
        for part in ("train", "val")
    )
    if start.directory is None:
        some = np.random.default_rng(request.seed).permutation(len(train.images))[:CALIBRATED]
        model = model.to(distributed.device)
        rgbs = (train.images[int(position)] for position in some)
        model.calibrate(to_unit(to_chw(rgb).to(distributed.device)) for rgb in rgbs)
    return Trainer(
        model,
        recipe=recipe,
        train=train,
        val=val,
        seed=request.seed,
        precision=request.precision,
        distributed=distributed,
    )


def choose_precision(name: str, device: torch.device, *, mixed: bool) -> str:
    """Return `float32` or `bfloat16`; `auto` takes bfloat16 where the hardware multiplies it.

    Args:
        mixed: whether `auto` may, see `Recipe.mixed_precision`.
    """
    if name not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"unknown precision {name!r}, known: auto, float32, bfloat16")
    if name != "auto":
        return name
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return "bfloat16" if mixed and fast else "float32"
