"""The folder of one training run: what is in it, and how it survives a kill.

OUT/run.json     the settings and digests of the data; a resumed run must have the same
OUT/log.jsonl    one line per finished epoch; a figure that is undefined is null
OUT/curves/      the same for TensorBoard, when it is installed
OUT/state.pt     all that the next epoch needs, replaced whole after each epoch
OUT/model/       the model directory of the best epoch so far on the validation part

The model card says what was trained on what and how validation went. Figures on a test part are
not known here: `ma-agiqa evaluate` measures them, and whoever publishes the model adds them.

`config.training` of the model says what goes beyond one data set:

    started_from   of a fine-tuned model: name, fingerprint and training set of the model it
                   started from, and the linear map that brought the human scores of the first
                   data set onto its scale
    data_sets      of several: name, target, split, number of training images, nominal scale,
                   and `from_score`, the linear map from the model's score to the set's scale
    seen_twice     how many images for validation or test have the content of one that trains

`config.interval` comes from the validation part of the first data set.

A linear map is {"slope", "offset"}: slope * x + offset.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ma_agiqa.config import ModelConfig, ScoreInterval
from ma_agiqa.data.splits import Split
from ma_agiqa.errors import DataError, MissingExtraError, ModelError, OutputError, UsageError
from ma_agiqa.evaluation.conformal import score_interval
from ma_agiqa.evaluation.report import without_nan
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.files import Lock, atomic_path, lock_folder, write_atomically
from ma_agiqa.lmm.encoder import fingerprint_of, to_record
from ma_agiqa.models import checkpoint
from ma_agiqa.training.data import DataSet, LinearMap, fitted, seen_in_training
from ma_agiqa.training.loop import Trainer
from ma_agiqa.training.network import Start
from ma_agiqa.training.recipe import Recipe

if TYPE_CHECKING:
    from ma_agiqa.training.run import Observer, TrainRequest

_UNREADABLE = (
    RuntimeError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    pickle.UnpicklingError,
)
"""What torch makes of damaged bytes, and we of values of another kind."""

CONTENT = "content"
"""Key of `run.json`: see `DataSet.content`."""


class Run:
    """The folder; a run that is there already is resumed or refused, never overwritten.

    While it is open no other process may write there.

    Args:
        start: what the training starts from.
        first: whether this process is the one that writes.
    """

    def __init__(
        self,
        request: TrainRequest,
        store: FeatureStore | None,
        *,
        start: Start,
        first: bool = True,
    ) -> None:
        self.store, self.start = store, start
        self.request, self.folder, self.model = request, request.out, request.out / "model"
        self.notes: list[str] = []
        settings = self.folder / "run.json"
        state = self.folder / "state.pt"
        if state.exists() and not request.resume:
            raise UsageError(
                "holds an earlier run", path=self.folder, remedy="--resume, or another --out"
            )
        if request.resume and not state.exists():
            if not settings.exists():
                raise UsageError("holds no run to resume", path=self.folder)
            self.notes.append("no epoch had finished: starting from the beginning")
        if request.resume:
            self.notes += _require_same(settings, self._settings())
        self._first = first
        self._writer: Callable[[dict[str, Any]], None] | None = None
        self._lock: Lock | None = None
        if first:
            self._lock = lock_folder(self.folder)

    def begin(self, sets: Sequence[DataSet]) -> None:
        """Note what the run learns from, or see that it is what it was started with.

        Raises:
            UsageError: other images, scores or splits than those of the run that is resumed.
        """
        if not (self._first or self.request.resume):
            return  # another process notes it, and reads every file for that
        path, content = self.folder / "run.json", {one.name: one.content() for one in sets}
        if not self.request.resume:
            settings = {**self._settings(), CONTENT: content}
            write_atomically(path, json.dumps(settings, indent=2) + "\n")
            return
        written = _read(path).get(CONTENT)
        if written is None:  # of a version that did not note it
            self.notes.append("whether the data are those of the start is not known")
        elif differing := [
            f"{part} of {name}"
            for name, parts in content.items()
            for part, digest in parts.items()
            if written.get(name, {}).get(part) != digest
        ]:
            raise UsageError(
                f"the run was started with other data: other {' and '.join(differing)}",
                path=path,
                remedy="resume with the same data, or start another run with another --out",
            )

    def close(self) -> None:
        """Let another process write to the folder."""
        if self._lock is not None:
            self._lock.release()

    def restore(self, trainer: Trainer) -> tuple[list[dict[str, Any]], float | None]:
        """Load the last finished epoch into `trainer`; return the history and the best SRCC."""
        path = self.folder / "state.pt"
        if not path.exists():
            return [], None
        try:
            state = torch.load(path, map_location=trainer.device, weights_only=True)
            trainer.load_state_dict(state["trainer"])
            history, best = list(state["history"]), state["best"]
        except _UNREADABLE as error:
            raise ModelError(f"the saved state is damaged: {error}", path=path) from error
        self.notes.append(f"resumed after epoch {len(history)}")
        if self._first:
            self._write_log(history)  # a kill may have come before it was written
        return history, best

    def record(self, trainer: Trainer, history: list[dict[str, Any]], best: float | None) -> None:
        """Write the state, then the log, which follows from it."""
        state = {"trainer": trainer.state_dict(), "history": history, "best": best}
        try:
            with atomic_path(self.folder / "state.pt") as path:
                torch.save(state, path)
        except RuntimeError as error:  # torch's zip writer reports a full disk this way
            raise OutputError(
                f"the state could not be written: {error}", path=self.folder
            ) from error
        self._write_log(history)
        self._draw(history)

    def _write_log(self, history: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(without_nan(line), allow_nan=False) + "\n" for line in history)
        write_atomically(self.folder / "log.jsonl", lines)

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
                    for key in sorted(line.keys() - {"epoch", "seconds"}):
                        board.add_scalar(key, line[key], line["epoch"])
                    board.flush()

                self._writer = write
        self._writer(history[-1])

    def _settings(self) -> dict[str, Any]:
        request = self.request
        settings: dict[str, Any] = {
            "model": request.model,
            "data": request.data,
            "split": request.split,
            "target": request.target,
            "seed": request.seed,
            "precision": request.precision,
            "recipe": dataclasses.asdict(request.recipe),
        }
        # Left out where they do not apply, as in runs of versions that did not know them.
        if request.backbone is not None:
            settings["backbone"] = request.backbone
        if request.network:
            settings["network"] = list(request.network)
        if request.also:
            settings["also"] = [[one.data, one.split] for one in request.also]
        if self.start.directory is not None:
            settings["started_from"] = checkpoint.fingerprint(self.start.directory)
        if self.store is not None:
            settings["encoder"] = self.store.header.fingerprint
            settings["questions"] = to_record(self.store.header.questions)
        return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(written, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot be read: {error}", path=path) from error
    return written


def _require_same(path: Path, own: dict[str, Any]) -> list[str]:
    """Refuse other settings than those of the run; return what is not known of them."""
    written, notes = _read(path), []
    written.pop(CONTENT, None)
    if written.get("precision") == "auto":  # of a version that did not note what it took
        written["precision"] = own["precision"]
        notes.append(f"the run does not say its precision: going on in {own['precision']}")
    if "backbone" in own:  # nor this
        written.setdefault("backbone", own["backbone"])
    if isinstance(recipe := written.get("recipe"), dict):
        recipe.setdefault("mixed_precision", own["recipe"]["mixed_precision"])
    for key in {**own, **written}:
        if written.get(key) != own.get(key):
            raise UsageError(
                f"the run was started with {key} {written.get(key)!r}, not {own.get(key)!r}",
                path=path,
                remedy="resume with the same settings, or start another run with another --out",
            )
    return notes


def training_record(
    start: Start, sets: list[DataSet], predicted: NDArray[np.float64] | None = None
) -> dict[str, Any]:
    """Return `config.training`; empty for a new network on one data set.

    Args:
        predicted: scores of the validation images of all sets, in order; without them the
            maps to the sets' scales stay unknown.
    """
    record: dict[str, Any] = {}
    if start.config is not None and start.directory is not None:
        trained = start.config.trained_on
        record["started_from"] = {
            "name": start.config.name,
            "fingerprint": checkpoint.fingerprint(start.directory),
            "trained_on": None if trained is None else f"{trained.dataset}, {trained.split}",
            "scores": _written(sets[0].to_model),
        }
    if len(sets) > 1:
        maps: list[LinearMap | None] = [None] * len(sets)
        if predicted is not None:
            ends = np.cumsum([len(one.split.val) for one in sets])[:-1]
            parts = np.split(predicted, ends)
            maps = [fitted(p, one.scores("val")) for p, one in zip(parts, sets, strict=True)]
        record["data_sets"] = [
            {
                "name": one.name,
                "target": one.target,
                "split": one.split.name,
                "images": len(one.split.train),
                "scale": [one.scale.low, one.scale.high],
                "from_score": None if way is None else _written(way),
            }
            for one, way in zip(sets, maps, strict=True)
        ]
    if seen := seen_in_training(sets):
        record["seen_twice"] = seen
    return record


def interval_of(
    first: DataSet, predicted: NDArray[np.float64] | None = None
) -> ScoreInterval | None:
    """Return `config.interval`, from the validation images of the model's own data set.

    Args:
        predicted: scores of the validation images of all sets, those of `first` in front.
    """
    if predicted is None or not np.isfinite(predicted).all():  # a training that went wrong
        return None
    mos = first.to_model(first.scores("val"))
    return score_interval(mos, predicted[: len(mos)])


def _written(way: LinearMap) -> dict[str, float]:
    return dataclasses.asdict(way)


def in_words(record: dict[str, Any]) -> str:
    """Return the record as lines of a model card, each ending the line."""
    lines = []
    if "started_from" in record:
        start = record["started_from"]
        way = LinearMap(**start["scores"])
        lines.append(
            f"- Fine-tuned from `{start['name']}` ({start['fingerprint'][:16]}, trained on "
            f"{start['trained_on']}), whose scale it keeps: human scores x were learned as "
            f"{way.slope:.6g} x {way.offset:+.6g}."
        )
    for one in record.get("data_sets", ()):
        low, high = one["scale"]
        way_back = "not fitted: the model does not order this set"
        if one["from_score"] is not None:
            way = LinearMap(**one["from_score"])
            way_back = f"{way.slope:.6g} x score {way.offset:+.6g}"
        lines.append(
            f"- Data set {one['name']}, target `{one['target']}`, {one['images']} training "
            f"images, scale {low:g} to {high:g}: {way_back} (least squares on validation)."
        )
    if record.get("seen_twice"):
        lines.append(
            f"- {record['seen_twice']} images for validation or test are copies of ones that "
            "train: figures on these are too good."
        )
    return "".join(line + "\n" for line in lines)


def training_card(
    config: ModelConfig,
    recipe: Recipe,
    best: dict[str, Any],
    split: Split,
    *,
    precision: str,
    backbone: str | None = None,
) -> str:
    """Return the card's text (Markdown with the Hub's metadata block).

    Args:
        precision: `float32` or `bfloat16`.
        backbone: where the weights of the vision transformer came from; None without one.
        best: the log line of the epoch whose weights the card goes with, or of the fit.
    """
    assert config.trained_on is not None, "a trained model knows its training set"
    trained = config.trained_on
    semantics = ""
    if config.questions:
        semantics = (
            f"- Semantic vectors: questions {', '.join(config.questions)}, encoder\n"
            f"  `{fingerprint_of(config.encoder)}` ({config.encoder.get('encoder', 'unnamed')}).\n"
        )
    start = "from random initial weights"
    if "started_from" in config.training:
        start = "fine-tuned, see below"
    if backbone not in (None, "random"):
        start += f" but for its trunk, which started from ImageNet weights ({backbone})"
    selected = f"{len(split.val)} images"
    if "data_sets" in config.training:
        selected = "the mean over the data sets"
    chosen = f"Validation part ({selected}), which chose nothing in this run"
    if "epoch" in best:
        chosen = f"Selected on the validation part ({selected}): epoch {best['epoch']}"
    source = " --lmm mplug-owl2" if config.questions else ""
    settings = ", ".join(f"{k} {v}" for k, v in dataclasses.asdict(recipe).items())
    return f"""---
library_name: ma-agiqa
license: apache-2.0
tags: [image-quality-assessment, ai-generated-images]
---
# {config.name}

Predicts the mean opinion score that people would give an AI-generated image, on the scale
{config.scale.low:g} to {config.scale.high:g} (higher is better).

- Architecture: `{config.architecture}`, {start}.
- Training data: {trained.dataset}, target `{trained.target}`, split `{trained.split}`,
  {trained.images} images. {split.protocol}.
  {" ".join(split.caveats)}
{in_words(config.training)}{semantics}- Recipe: {settings}. Precision: {precision}.
- {chosen}, SRCC {best["srcc"]:.4f}, raw PLCC
  {best["plcc_raw"]:.4f}. The split that selects is not the one that reports: see the
  evaluation of the test part.
- Versions: {", ".join(f"{k} {v}" for k, v in config.versions.items())}; commit {config.commit}.

```
ma-agiqa score --model DIRECTORY{source} pictures/
```
"""
