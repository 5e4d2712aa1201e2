"""One training run from request to model directory, resumable after any kill.

    OUT/run.json     the settings; a resumed run must have the same
    OUT/log.jsonl    one line per finished epoch
    OUT/curves/      the same for TensorBoard, when it is installed
    OUT/state.pt     all that the next epoch needs, replaced whole after each epoch
    OUT/model/       the model directory of the best epoch so far on the validation part

Data flows: registry -> samples -> split -> images in memory -> loop -> model directory. The
test part of the split is never read.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import time
from collections.abc import Callable
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
from ma_agiqa.errors import DataError, MissingExtraError, ModelError, OutputError, UsageError
from ma_agiqa.files import atomic_path, write_atomically
from ma_agiqa.provenance import environment
from ma_agiqa.training.card import training_card
from ma_agiqa.training.images import TrainingImages
from ma_agiqa.training.loop import Part, Trainer
from ma_agiqa.training.recipe import Recipe
from ma_agiqa.training.starts import STARTS, load_backbone
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
        OutputError: the run folder cannot be written.
    """
    run = Run(request)
    samples = registry.load(request.data, request.root, request.columns)
    split = splits.resolve(request.split, samples, request.root)
    config = _model_config(request, samples, split)
    trainer = _trainer(request, config, samples, split)
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
            card = training_card(config, request.recipe, line, split)
            checkpoints.save(run.model, trainer.average, config, card=card)
        run.record(trainer, history, best)
        observer.epoch_finished(line, best=better)
        run.tell(observer)
    return run.model


def _selected_by(recipe: Recipe, line: dict[str, Any]) -> float:
    figure = line["srcc"] if recipe.select == "srcc" else line["srcc"] + line["plcc_raw"]
    return float(figure)


def _model_config(request: TrainRequest, samples: Samples, split: Split) -> ModelConfig:
    where = environment()
    target = request.target or next(iter(samples.targets))
    scores = samples.target(target)[split.part("train")]
    if not np.ptp(scores) > 0:
        raise DataError("all training images have the same score: there is nothing to learn")
    scale = samples.scale or Scale(float(scores.min()), float(scores.max()), name=target)
    start = STARTS[request.model]
    return ModelConfig(
        name=request.model,
        architecture=start.architecture,
        network=start.network(request.recipe, scale),
        preprocess=start.preprocess,
        scale=scale,
        trained_on=TrainedOn(
            dataset=samples.dataset,
            target=target,
            split=request.split,
            images=len(split.train),
            score_quantiles=tuple(np.quantile(scores, np.linspace(0, 1, 101)).tolist()),
        ),
        versions=where.versions,
        commit=where.commit,
    )


def _trainer(request: TrainRequest, config: ModelConfig, samples: Samples, split: Split) -> Trainer:
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


class Run:
    """The folder of one run: what is in it, and how it survives a kill."""

    def __init__(self, request: TrainRequest) -> None:
        self.request, self.folder, self.model = request, request.out, request.out / "model"
        self.notes: list[str] = []
        settings, state = self.folder / "run.json", self.folder / "state.pt"
        if state.exists() and not request.resume:
            raise UsageError(
                "holds an earlier run", path=self.folder, remedy="--resume, or another --out"
            )
        if request.resume and not state.exists():
            if not settings.exists():
                raise UsageError("holds no run to resume", path=self.folder)
            self.notes.append("no epoch had finished: starting from the beginning")
        own = self._settings()
        if request.resume:
            _require_same(settings, own)
        else:
            write_atomically(settings, json.dumps(own, indent=2) + "\n")
        self._writer: Callable[[dict[str, Any]], None] | None = None

    def restore(self, trainer: Trainer) -> tuple[list[dict[str, Any]], float | None]:
        """Load the last finished epoch into `trainer`; return the history and the best SRCC."""
        path = self.folder / "state.pt"
        if not path.exists():
            return [], None
        try:
            state = torch.load(path, map_location=trainer.device, weights_only=True)
            trainer.load_state_dict(state["trainer"])
        except (RuntimeError, OSError, KeyError, ValueError, pickle.UnpicklingError) as error:
            raise ModelError(f"the saved state is damaged: {error}", path=path) from error
        history = state["history"]
        self.notes.append(f"resumed after epoch {len(history)}")
        return history, state["best"]

    def record(self, trainer: Trainer, history: list[dict[str, Any]], best: float | None) -> None:
        """Write the state, then the log; a kill in between costs nothing."""
        state = {"trainer": trainer.state_dict(), "history": history, "best": best}
        try:
            with atomic_path(self.folder / "state.pt") as path:
                torch.save(state, path)
        except RuntimeError as error:  # torch's zip writer reports a full disk this way
            raise OutputError(
                f"the state could not be written: {error}", path=self.folder
            ) from error
        lines = "".join(json.dumps(line) + "\n" for line in history)
        write_atomically(self.folder / "log.jsonl", lines)
        self._draw(history)

    def tell(self, observer: Observer) -> None:
        """Pass on what has come up since the last time."""
        for note in self.notes:
            observer.note(note)
        self.notes.clear()

    def _draw(self, history: list[dict[str, Any]]) -> None:
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self.notes.append(str(MissingExtraError("tensorboard", "train")))
                self._writer = lambda line: None
            else:
                board = SummaryWriter(str(self.folder / "curves"), purge_step=len(history))

                def write(line: dict[str, Any]) -> None:
                    for key in ("loss", "srcc", "plcc_raw"):
                        board.add_scalar(key, line[key], line["epoch"])
                    board.flush()

                self._writer = write
        self._writer(history[-1])

    def _settings(self) -> dict[str, Any]:
        request = self.request
        return {
            "model": request.model,
            "data": request.data,
            "split": request.split,
            "target": request.target,
            "seed": request.seed,
            "precision": request.precision,
            "recipe": dataclasses.asdict(request.recipe),
        }


def _require_same(path: Path, own: dict[str, Any]) -> None:
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", path=path) from error
    for key, value in own.items():
        if written.get(key) != value:
            raise UsageError(
                f"the run was started with {key} {written.get(key)!r}, not {value!r}",
                path=path,
                remedy="resume with the same settings, or start another run with another --out",
            )
