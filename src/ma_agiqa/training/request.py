"""What a training run is asked for, and whom it tells how it goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ma_agiqa.data.samples import TableColumns
from ma_agiqa.training.recipe import ClosedForm, Recipe


@dataclass(frozen=True)
class TrainRequest:
    """What to train, on what.

    Attributes:
        data: name in the data registry, or a CSV, Parquet or Excel table.
        root: folder the data set lies in.
        out: folder of the run.
        model: name in `starts.STARTS`, or a model directory or Hub id to be fine-tuned.
        backbone: see `starts.load_backbone`; only for networks that have one.
        store: feature store, for networks that take semantic vectors.
        network: changed arguments of the network, see `starts.with_arguments`.
        split: name of the split; `train` trains, `val` selects, `test` stays unread.
        target: which human score; None takes the data set's own default.
        also: further data sets, name or table and root each, of the same split and, where
            they have it, target; the model's scale is that of `data`.
        descriptions: folder where a fit in closed form keeps the statistics of images, for
            other runs too; None keeps them in `out`.
        precision: `auto`, `float32` or `bfloat16`.
    """

    data: str
    root: Path
    out: Path
    recipe: Recipe | ClosedForm
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
    also: tuple[tuple[str, Path], ...] = ()
    descriptions: Path | None = None
    columns: TableColumns = field(default_factory=TableColumns)


class Observer(Protocol):
    """Gets news of a run; the command line draws a progress bar from it.

    A fit in closed form tells how many images are described, then step and error of its
    descent, then one line of figures as if it were an epoch.
    """

    def described(self, images: int, of: int) -> None: ...
    def epoch_started(self, epoch: int, epochs: int) -> None: ...
    def loss(self, running: float) -> None: ...
    def epoch_finished(self, line: dict[str, Any], *, best: bool) -> None: ...
    def note(self, text: str) -> None: ...
