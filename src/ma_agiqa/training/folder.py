"""The folder of one training run: what is in it, and how it survives a kill.

OUT/run.json     the settings; a resumed run must have the same
OUT/log.jsonl    one line per finished epoch
OUT/curves/      the same for TensorBoard, when it is installed
OUT/state.pt     all that the next epoch needs, replaced whole after each epoch
OUT/model/       the model directory of the best epoch so far on the validation part
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ma_agiqa.errors import DataError, MissingExtraError, ModelError, OutputError, UsageError
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.files import atomic_path, write_atomically
from ma_agiqa.lmm.encoder import to_record
from ma_agiqa.models import checkpoint
from ma_agiqa.training.loop import Trainer
from ma_agiqa.training.starts import Start

if TYPE_CHECKING:
    from ma_agiqa.training.request import Observer, TrainRequest


class Run:
    """The folder; a run that is there already is resumed or refused, never overwritten.

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
        own = self._settings()
        if request.resume:
            _require_same(settings, own)
        elif first:
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


def _require_same(path: Path, own: dict[str, Any]) -> None:
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", path=path) from error
    for key in {**own, **written}:
        if written.get(key) != own.get(key):
            raise UsageError(
                f"the run was started with {key} {written.get(key)!r}, not {own.get(key)!r}",
                path=path,
                remedy="resume with the same settings, or start another run with another --out",
            )
