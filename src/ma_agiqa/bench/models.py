"""What a grid may hold, as a literal table of kinds.

    directory   a model directory, a preset's name or a Hub id, as it is
    train       a network trained here on the training part, chosen on validation
    probe       ridge regression on the vectors of a feature store
    scores      a CSV of name and score that another program wrote
    peer        a published measure, computed through the library pyiqa

An ablation is written out into trainings: the paper's network without vectors, with either
question's, with both; then with both and another gate.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

from ma_agiqa.errors import UsageError
from ma_agiqa.text import did_you_mean
from ma_agiqa.training.recipe import RECIPES, Recipe, with_settings
from ma_agiqa.training.starts import STARTS


@dataclass(frozen=True)
class DirectorySpec:
    """A model as it is. `store` or `lmm` give it the vectors it was trained with."""

    kind: ClassVar[str] = "directory"
    learns: ClassVar[bool] = False

    name: str
    model: str
    revision: str | None = None
    store: Path | None = None
    lmm: str | None = None


@dataclass(frozen=True)
class TrainSpec:
    """A training; the arguments are those of `ma-agiqa train`.

    Attributes:
        vectors: which of the store's questions the network takes; all when empty.
        also: further data sets to learn from, each `NAME=ROOT@SPLIT`.
        splits: on which of the grid's splits it is run; all when empty. For what takes long.
    """

    kind: ClassVar[str] = "train"
    learns: ClassVar[bool] = True

    name: str
    model: str = "compact"
    recipe: str | None = None
    settings: tuple[str, ...] = ()
    network: tuple[str, ...] = ()
    backbone: str = "published"
    store: Path | None = None
    vectors: tuple[str, ...] = ()
    precision: str = "auto"
    also: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    def recipe_of(self) -> Recipe:
        """Return the recipe with its settings.

        Raises:
            UsageError: unknown network, recipe or setting.
        """
        if self.model not in STARTS:
            known = did_you_mean(self.model, STARTS, "known are")
            raise UsageError(f"model {self.name!r}: nothing named {self.model!r} to train{known}")
        name = self.recipe or STARTS[self.model].recipe
        if name not in RECIPES:
            known = did_you_mean(name, RECIPES, "known are")
            raise UsageError(f"model {self.name!r}: no recipe named {name!r}{known}")
        return with_settings(RECIPES[name], self.settings)


@dataclass(frozen=True)
class ProbeSpec:
    """Ridge regression on stored vectors."""

    kind: ClassVar[str] = "probe"
    learns: ClassVar[bool] = True

    name: str
    store: Path
    vectors: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoresSpec:
    """Scores from a file. `data` names the data set they are of; all when None."""

    kind: ClassVar[str] = "scores"
    learns: ClassVar[bool] = False

    name: str
    file: Path
    lower_is_better: bool = False
    data: str | None = None


@dataclass(frozen=True)
class PeerSpec:
    """A measure of pyiqa; whether lower is better is what the library says.

    Attributes:
        fill_worst: whether an image for which it gives no number gets the worst of the other
            scores; without it such an image makes the cell fail.
    """

    kind: ClassVar[str] = "peer"
    learns: ClassVar[bool] = False

    name: str
    metric: str
    fill_worst: bool = False


ModelSpec: TypeAlias = DirectorySpec | TrainSpec | ProbeSpec | ScoresSpec | PeerSpec

KINDS: dict[str, type[ModelSpec]] = {
    spec.kind: spec for spec in (DirectorySpec, TrainSpec, ProbeSpec, ScoresSpec, PeerSpec)
}


@dataclass(frozen=True)
class AblationSpec:
    """Which part of the paper's network earns its place; names end in the row's name."""

    name: str
    store: Path
    recipe: str | None = None
    settings: tuple[str, ...] = ()
    network: tuple[str, ...] = ()
    backbone: str = "published"
    precision: str = "auto"

    def models(self) -> list[TrainSpec]:
        """Return one training per row."""
        full = TrainSpec(
            name=self.name,
            model="paper",
            recipe=self.recipe,
            settings=self.settings,
            network=self.network,
            backbone=self.backbone,
            store=self.store,
            precision=self.precision,
        )
        rows = [dataclasses.replace(full, name=f"{self.name}: visual", model="visual", store=None)]
        for question in ("coherence", "meaning"):
            name = f"{self.name}: visual + {question}"
            rows.append(dataclasses.replace(full, name=name, vectors=(question,)))
        for gate in ("linear", "softmax", "none"):
            network = (*self.network, f"gate={gate}")
            name = f"{self.name}: all, {gate} gate"
            rows.append(dataclasses.replace(full, name=name, network=network))
        return rows
