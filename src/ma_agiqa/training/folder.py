"""The folder of one training run: what is in it, and how it survives a kill.

OUT/run.json     the settings and digests of the data; a resumed run must have the same
OUT/log.jsonl    one line per finished epoch
OUT/curves/      the same for TensorBoard, when it is installed
OUT/state.pt     all that the next epoch needs, replaced whole after each epoch
OUT/model/       the model directory of the best epoch so far on the validation part
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ma_agiqa.errors import DataError, MissingExtraError, ModelError, OutputError, UsageError
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.files import Lock, atomic_path, lock_folder, write_atomically
from ma_agiqa.lmm.encoder import to_record
from ma_agiqa.models import checkpoint
from ma_agiqa.training.datasets import DataSet
from ma_agiqa.training.loop import Trainer
from ma_agiqa.training.starts import Start

if TYPE_CHECKING:
    from ma_agiqa.training.request import Observer, TrainRequest

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
            _require_same(settings, self._settings())
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
        path, content = self.folder / "run.json", {one.name: one.content() for one in sets}
        if not self.request.resume:
            if self._first:
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
        return history, best

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


def _read(path: Path) -> dict[str, Any]:
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(written, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot be read: {error}", path=path) from error
    return written


def _require_same(path: Path, own: dict[str, Any]) -> None:
    written = _read(path)
    written.pop(CONTENT, None)
    for key in {**own, **written}:
        if written.get(key) != own.get(key):
            raise UsageError(
                f"the run was started with {key} {written.get(key)!r}, not {own.get(key)!r}",
                path=path,
                remedy="resume with the same settings, or start another run with another --out",
            )
