"""What a training run is asked for, and whom it tells how it goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ma_agiqa.data.samples import TableColumns
from ma_agiqa.errors import UsageError
from ma_agiqa.training.recipe import Recipe


@dataclass(frozen=True)
class Source:
    """A data set to learn from.

    Attributes:
        data: name in the data registry, or a table.
        root: folder the data set lies in.
        split: name of the split.
    """

    data: str
    root: Path
    split: str

    @classmethod
    def parse(cls, text: str, *, split: str) -> Source:
        """Return the data set that `NAME=ROOT` or `NAME=ROOT@SPLIT` names.

        Args:
            split: of a text that names none.

        Raises:
            UsageError: the text is not of this form.
        """
        data, _, place = text.partition("=")
        root, _, own = place.rpartition("@") if "@" in place else (place, "", split)
        if not (data and root and own):
            raise UsageError(f"expected NAME=ROOT or NAME=ROOT@SPLIT, got {text!r}")
        return cls(data, Path(root), own)


@dataclass(frozen=True)
class TrainRequest:
    """What to train, on what.

    Attributes:
        data: name in the data registry, or a CSV, Parquet or Excel table.
        root: folder the data set lies in.
        out: folder of the run.
        model: name in `starts.STARTS`, or a model directory or Hub id to be fine-tuned.
        backbone: start of the network's trunk, see `QualityNetwork.load_backbone`.
        store: feature store, for networks that take semantic vectors.
        network: changed arguments of the network, see `starts.with_arguments`.
        split: name of the split; `train` trains, `val` selects, `test` stays unread.
        target: which human score; None takes the data set's own default.
        also: further data sets to learn from; the model's scale is that of `data`.
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
    also: tuple[Source, ...] = ()
    columns: TableColumns = field(default_factory=TableColumns)


class Observer(Protocol):
    """Gets news of a run; the command line draws a progress bar from it."""

    def epoch_started(self, epoch: int, epochs: int) -> None: ...
    def loss(self, running: float) -> None: ...
    def epoch_finished(self, line: dict[str, Any], *, best: bool) -> None: ...
    def note(self, text: str) -> None: ...
