"""What a grid names, looked up before any work: data, splits, stores, files, measures.

A content hash stands for each, so that a finished cell is taken up again only where what it was
made of is the same: of a data set its names and scores, of a model directory its weights, of a
store its encoder and questions, of a file its bytes. Images are known by name here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ma_agiqa import presets
from ma_agiqa.bench import peers
from ma_agiqa.bench.grid import DataSpec, Grid
from ma_agiqa.bench.models import (
    DirectorySpec,
    ModelSpec,
    PeerSpec,
    ProbeSpec,
    ScoresSpec,
    TrainSpec,
)
from ma_agiqa.data import datasets, splits
from ma_agiqa.data.samples import Samples
from ma_agiqa.data.splits import Split
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.evaluation.report import read_scores, scores_of
from ma_agiqa.features.source import hash_files
from ma_agiqa.features.store import read_header
from ma_agiqa.text import did_you_mean
from ma_agiqa.training.starts import STARTS


@dataclass(frozen=True, eq=False)
class Material:
    """One data set, read.

    Attributes:
        target: the human score that counts.
        splits: by name, in the order of the grid.
        part: of each split, on which models are judged.
        digest: of names and scores.
    """

    spec: DataSpec
    samples: Samples
    target: str
    splits: dict[str, Split]
    part: str
    digest: str

    @property
    def name(self) -> str:
        """What results call it."""
        return self.spec.name

    def judged(self, split: str) -> NDArray[np.int64]:
        """Return the rows of the images on which models are judged on a split."""
        return self.splits[split].part(self.part)

    def judged_anywhere(self) -> Samples:
        """Return the images on which models are judged on any split, ascending."""
        rows = [self.judged(split) for split in self.splits]
        return self.samples.subset(np.unique(np.concatenate(rows)))


def gather(grid: Grid) -> tuple[list[Material], dict[str, str]]:
    """Look everything up; return the data sets, and the content hash of each model by name.

    Raises:
        UsageError: an unknown data set, split, target, model, question or measure.
        DataError, FeatureError, ModelError: something named is missing or damaged.
    """
    materials = [_material(spec, grid.part) for spec in grid.data]
    return materials, {spec.name: _digest(spec, materials) for spec in grid.models}


def _material(spec: DataSpec, part: str) -> Material:
    samples = datasets.load(spec.data, spec.root, spec.columns)
    target = spec.target or next(iter(samples.targets))
    scores = samples.target(target)
    content = "\n".join([target, *map(repr, zip(samples.name, scores.tolist(), strict=True))])
    return Material(
        spec=spec,
        samples=samples,
        target=target,
        splits={name: splits.resolve(name, samples, spec.root) for name in spec.splits},
        part=part,
        digest=_sha(content.encode()),
    )


def _digest(spec: ModelSpec, materials: Sequence[Material]) -> str:
    """Return the content hash of what a model is made of, having checked that it is there."""
    if isinstance(spec, ScoresSpec):
        return _scores_digest(spec, materials)
    if isinstance(spec, PeerSpec):
        return peers.version(spec.metric)
    if isinstance(spec, DirectorySpec):
        return _directory_digest(spec)
    if spec.store is None:
        if not isinstance(spec, ProbeSpec) and STARTS[spec.model].semantics:
            raise UsageError(f"model {spec.name!r} takes semantic features: name its store")
        store = ""
    else:
        store = _store_digest(spec.name, spec.store, spec.vectors)
    if isinstance(spec, TrainSpec) and Path(spec.backbone).is_file():
        (backbone,) = hash_files([spec.backbone])
        return f"{store}+{backbone}"
    return store


def _store_digest(name: str, store: Path, vectors: Sequence[str]) -> str:
    found = read_header(store)
    own = {question.name: question for question in found.questions}
    for vector in vectors:
        if vector not in own:
            known = did_you_mean(vector, own, "it has")
            raise UsageError(f"model {name!r}: {store} has no vectors named {vector!r}{known}")
    asked = [own[vector].fingerprint for vector in vectors or own]
    return _sha("\n".join([found.fingerprint, *asked]).encode())


def _scores_digest(spec: ScoresSpec, materials: Sequence[Material]) -> str:
    known = [material.name for material in materials]
    if spec.data is not None and spec.data not in known:
        raise UsageError(
            f"model {spec.name!r}: no data {spec.data!r}{did_you_mean(spec.data, known, '')}"
        )
    scores = read_scores(spec.file)
    for material in materials:
        if spec.data in (None, material.name):
            scores_of(scores, material.judged_anywhere(), source=spec.file)
    return _file_sha(spec.file)


def _directory_digest(spec: DirectorySpec) -> str:
    if spec.store is not None:
        read_header(spec.store)
    on_hub = spec.model.count("/") == 1 and not spec.model.startswith((".", "/", "~"))
    if on_hub and not Path(spec.model).is_dir():
        return spec.revision or ""  # its files are fetched when its turn comes
    folder = presets.find(spec.model, revision=spec.revision)
    return _file_sha(folder / "config.json") + _file_sha(folder / "model.safetensors")


def _file_sha(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return _sha(file.read())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from error


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
