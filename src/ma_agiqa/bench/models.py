"""The kinds of model that a grid may hold: what each is made of, and how it is run.

    directory   a model directory, a preset's name or a Hub id, as it is
    train       a network trained here on the training part, chosen on validation
    probe       ridge regression on the vectors of a feature store
    scores      a CSV of name and score that another program wrote
    peer        a published metric, computed by the library pyiqa

A kind answers for itself, see `ModelSpec`. A directory and a metric score the judged images of a
data set once; all splits share those scores, kept in OUT/scores. A training keeps its run in
OUT/runs and continues it after a kill.

An ablation stands for several trainings: the paper's network without semantic vectors, with the
vectors of either question, with both, and with both and another gate.

Shapes: n images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ma_agiqa import images
from ma_agiqa.bench import pyiqa_metrics
from ma_agiqa.bench.job import (
    Bench,
    Job,
    LoadedDataset,
    ModelSpec,
    RunOutput,
    evaluation,
    expand_splits,
    file_sha256,
    placed_data,
    sha256,
)
from ma_agiqa.data import datasets, splits
from ma_agiqa.data.samples import Samples, require_images
from ma_agiqa.data.splits import Split
from ma_agiqa.errors import UsageError
from ma_agiqa.evaluation import evaluate as protocol
from ma_agiqa.evaluation.evaluate import read_scores, scores_of, with_direction
from ma_agiqa.evaluation.probe import features_of, fit_probe
from ma_agiqa.features.source import hash_files, keys_of
from ma_agiqa.features.store import FeatureStore, read_header
from ma_agiqa.models import checkpoint
from ma_agiqa.models.registry import CONFIG, MODELS, find_directory, weights_file
from ma_agiqa.scorer import load
from ma_agiqa.text import did_you_mean
from ma_agiqa.training.data import Source
from ma_agiqa.training.network import check_arguments, find_start
from ma_agiqa.training.recipe import RECIPES, Recipe, with_settings
from ma_agiqa.training.run import TrainRequest, train


@dataclass(frozen=True)
class DirectorySpec(ModelSpec):
    """A model as it is. `store` or `lmm` give it the vectors it was trained with."""

    kind = "directory"

    model: str
    revision: str | None = None
    store: Path | None = None
    lmm: str | None = None

    def placed(self, folder: Path) -> DirectorySpec:
        model, lmm = (
            str(folder / name) if name and (folder / name).is_dir() else name
            for name in (self.model, self.lmm)
        )
        return dataclasses.replace(self, model=model or "", lmm=lmm)

    def digest(self, datasets: Sequence[LoadedDataset]) -> str:
        if self.store is not None:
            read_header(self.store)
        on_hub = self.model.count("/") == 1 and not self.model.startswith((".", "/", "~"))
        if on_hub and not Path(self.model).is_dir():
            return self.revision or ""  # its files are fetched when its turn comes
        folder = find_directory(self.model, revision=self.revision)
        return file_sha256(folder / CONFIG) + file_sha256(weights_file(folder))

    def run(self, job: Job, bench: Bench) -> RunOutput:
        def score() -> dict[str, float]:
            scorer = load(
                self.model,
                device=bench.device,
                revision=self.revision,
                store=self.store,
                lmm=self.lmm,
            )
            judged = job.data.judged_anywhere()
            return dict(zip(judged.name, protocol.predict(scorer, judged).tolist(), strict=True))

        data = job.data
        report = bench.report_scores(job, bench.score_once(job, score), source=bench.out)
        config = checkpoint.read_config(find_directory(self.model, revision=self.revision))
        seen = protocol.seen_in_training(config, data.samples, data.rows(job.split), data.root)
        return [evaluation(data, report, *seen)], {}


OWN_SPLIT = "the run's own"
"""Stands for the split of each run in a data set of `also` that names none."""


@dataclass(frozen=True)
class TrainSpec(ModelSpec):
    """A training; the arguments are those of `ma-agiqa train`.

    Attributes:
        vectors: which of the store's questions the network takes; all when empty.
        also: further data sets to learn from, each `NAME=ROOT@SPLIT`, or `NAME=ROOT` for the
            split of the run; `placed` parses them.
        splits: the splits of the grid on which it is run; all when empty. For slow trainings.
    """

    kind = "train"
    learns = True

    model: str = "compact"
    recipe: str | None = None
    settings: tuple[str, ...] = ()
    network: tuple[str, ...] = ()
    backbone: str = "published"
    store: Path | None = None
    vectors: tuple[str, ...] = ()
    precision: str = "auto"
    also: tuple[str | Source, ...] = ()
    splits: tuple[str, ...] = ()

    def placed(self, folder: Path) -> TrainSpec:
        file = folder / self.backbone
        return dataclasses.replace(
            self,
            backbone=str(file) if file.is_file() else self.backbone,
            also=tuple(self._placed_source(one, folder) for one in self.also),
            splits=expand_splits(self.splits),
        )

    def _placed_source(self, also: str | Source, folder: Path) -> Source:
        try:
            source = self._source(also)
        except UsageError as error:
            raise UsageError(f"model {self.name!r}: also: {error.reason}") from error
        data = placed_data(source.data, folder)
        return dataclasses.replace(source, data=data, root=folder / source.root)

    @staticmethod
    def _source(also: str | Source) -> Source:
        return Source.parse(also, split=OWN_SPLIT) if isinstance(also, str) else also

    def sources(self, split: str) -> tuple[Source, ...]:
        found = map(self._source, self.also)
        return tuple(
            dataclasses.replace(one, split=split) if one.split == OWN_SPLIT else one
            for one in found
        )

    def check(self, splits: Sequence[str]) -> None:
        self._recipe()
        check_arguments(find_start(self.model), self.network)
        for split in self.splits:
            if split not in splits:
                known = did_you_mean(split, splits, "they have")
                raise UsageError(f"model {self.name!r}: no data has the split {split!r}{known}")

    def _recipe(self) -> Recipe:
        if self.model not in MODELS:
            known = did_you_mean(self.model, MODELS, "known are")
            raise UsageError(f"model {self.name!r}: nothing named {self.model!r} to train{known}")
        name = self.recipe or MODELS[self.model].blueprint.recipe
        if name not in RECIPES:
            known = did_you_mean(name, RECIPES, "known are")
            raise UsageError(f"model {self.name!r}: no recipe named {name!r}{known}")
        return with_settings(RECIPES[name], self.settings)

    def digest(self, datasets: Sequence[LoadedDataset]) -> str:
        if self.store is None and MODELS[self.model].blueprint.semantics:
            raise UsageError(f"model {self.name!r} takes semantic features: name its store")
        store = _store_digest(self.name, self.store, self.vectors) if self.store else ""
        if Path(self.backbone).is_file():
            (backbone,) = hash_files([self.backbone])
            return f"{store}+{backbone}"
        return store

    def runs(self, data: LoadedDataset, seeds: Sequence[int]) -> Iterator[tuple[str, int | None]]:
        for split in data.splits:
            if split in (self.splits or data.splits):
                yield from ((split, seed) for seed in seeds)

    def run(self, job: Job, bench: Bench) -> RunOutput:
        data, folder, store = job.data, bench.out / "runs" / job.key, self.store
        assert job.seed is not None
        also = self.sources(job.split)
        if store is not None and self.vectors:
            sets = [_learned(data.samples, data.splits[job.split])]
            for source in also:
                samples = datasets.load(source.data, source.root, data.columns)
                sets.append(_learned(samples, splits.resolve(source.split, samples, source.root)))
            store = select_questions(store, self.vectors, sets, bench.out / "stores")
        request = TrainRequest(
            data=data.data,
            root=data.root,
            out=folder,
            recipe=self._recipe(),
            model=self.model,
            backbone=self.backbone,
            store=store,
            network=self.network,
            split=job.split,
            target=data.target,
            seed=job.seed,
            device=bench.device,
            precision=self.precision,
            resume=(folder / "run.json").exists(),
            columns=data.columns,
            also=also,
        )
        directory = train(request, observer=bench.observer)
        scorer = load(directory, device=bench.device, store=self.store)

        def predict(other: LoadedDataset, split: str) -> NDArray[np.float64]:
            return protocol.predict(scorer, other.judged(split))

        return bench.evaluate(job, predict), {"model": str(directory)}


@dataclass(frozen=True)
class ProbeSpec(ModelSpec):
    """Ridge regression on stored vectors; on those of all questions when `vectors` is empty."""

    kind = "probe"
    learns = True

    store: Path
    vectors: tuple[str, ...] = ()

    def digest(self, datasets: Sequence[LoadedDataset]) -> str:
        return _store_digest(self.name, self.store, self.vectors)

    def run(self, job: Job, bench: Bench) -> RunOutput:
        store, vectors = FeatureStore.open(self.store), self.vectors or None
        data = job.data
        split = data.splits[job.split]
        fitted = fit_probe(store, data.samples, split, target=data.target, vectors=vectors)

        def predict(other: LoadedDataset, split: str) -> NDArray[np.float64]:
            return fitted.predict(features_of(store, other.judged(split), vectors))

        return bench.evaluate(job, predict), fitted.to_dict()


@dataclass(frozen=True)
class ScoresSpec(ModelSpec):
    """Scores from a file. `data` names the data set they are of; all when None."""

    kind = "scores"

    file: Path
    lower_is_better: bool = False
    data: str | None = None

    def digest(self, datasets: Sequence[LoadedDataset]) -> str:
        known = [data.name for data in datasets]
        if self.data is not None and self.data not in known:
            names = did_you_mean(self.data, known, "known are")
            raise UsageError(f"model {self.name!r}: no data {self.data!r}{names}")
        scores = read_scores(self.file)
        for data in datasets:
            if self.data in (None, data.name):
                scores_of(scores, data.judged_anywhere(), source=self.file)
        return file_sha256(self.file)

    def runs(self, data: LoadedDataset, seeds: Sequence[int]) -> Iterator[tuple[str, int | None]]:
        if self.data in (None, data.name):
            yield from super().runs(data, seeds)

    def run(self, job: Job, bench: Bench) -> RunOutput:
        scores, negated = read_scores(self.file), self.lower_is_better
        report = bench.report_scores(job, scores, source=self.file, negated=negated)
        return [evaluation(job.data, with_direction(report, negated=negated))], {}


@dataclass(frozen=True)
class PyiqaSpec(ModelSpec):
    """A metric of pyiqa; the library says whether lower is better.

    Attributes:
        fill_worst: whether an image without a number gets the worst of the other scores; if
            not, such an image makes the job fail.
    """

    kind = "peer"

    metric: str
    fill_worst: bool = False

    def digest(self, datasets: Sequence[LoadedDataset]) -> str:
        return pyiqa_metrics.version(self.metric)

    def run(self, job: Job, bench: Bench) -> RunOutput:
        def score() -> dict[str, Any]:
            judged = job.data.judged_anywhere()
            require_images(judged)
            metric = pyiqa_metrics.PyiqaMetric(self.metric, device=bench.device)
            values, without = {}, []
            for name, path in zip(judged.name, judged.path, strict=True):
                try:
                    values[name] = metric(images.read_bytes(path), name=str(path))
                except pyiqa_metrics.NoScoreError:
                    if not self.fill_worst:
                        raise
                    without.append(name)
            lower = metric.lower_is_better
            return {
                "values": pyiqa_metrics.filled(values, without, lower_is_better=lower),
                "without": without,
                "lower_is_better": lower,
            }

        kept = bench.score_once(job, score)
        negated, notes = bool(kept["lower_is_better"]), []
        report = bench.report_scores(job, kept["values"], source=bench.out, negated=negated)
        report = with_direction(report, negated=negated)
        if count := len(set(report.names) & set(kept["without"])):
            missing = f"{self.metric} gives no number for {count} of these images"
            notes.append(f"{missing}: they count as the worst")
        return [evaluation(job.data, report, *notes)], {"lower_is_better": negated}


KINDS: dict[str, type[ModelSpec]] = {
    spec.kind: spec for spec in (DirectorySpec, TrainSpec, ProbeSpec, ScoresSpec, PyiqaSpec)
}


@dataclass(frozen=True)
class AblationSpec:
    """Which part of the paper's network is worth its cost; names end in the row's name."""

    name: str
    store: Path
    recipe: str | None = None
    settings: tuple[str, ...] = ()
    network: tuple[str, ...] = ()
    backbone: str = "published"
    precision: str = "auto"

    def models(self) -> list[TrainSpec]:
        """Return one training per row."""
        full = TrainSpec(model="paper", **vars(self))
        rows = [dataclasses.replace(full, name=f"{self.name}: visual", model="visual", store=None)]
        for question in ("coherence", "meaning"):
            name = f"{self.name}: visual + {question}"
            rows.append(dataclasses.replace(full, name=name, vectors=(question,)))
        for gate in ("linear", "softmax", "none"):
            network = (*self.network, f"gate={gate}")
            name = f"{self.name}: all, {gate} gate"
            rows.append(dataclasses.replace(full, name=name, network=network))
        return rows


def select_questions(
    store: Path, names: Sequence[str], sets: Sequence[Samples], folder: Path
) -> Path:
    """Copy the vectors of some questions for the images of data sets; return the new store.

    Vectors that are already there are not copied again.

    Raises:
        DataError: an image or, where questions quote them, the prompts are missing.
        FeatureError: a store is damaged, or has no vectors of an image.
        OutputError: the new one cannot be written.
    """
    source = FeatureStore.open(store)
    own = {question.name: question for question in source.header.questions}
    chosen = tuple(own[name] for name in names)
    target = folder / f"{source.header.fingerprint}-{'-'.join(q.fingerprint for q in chosen)}"
    copy = FeatureStore.create(target, dataclasses.replace(source.header, questions=chosen))
    keys: dict[str, str] = {}  # only keys of questions that quote prompts hold the prompt
    for samples in sets:
        require_images(samples)
        keys |= zip(keys_of(copy, samples), keys_of(source, samples), strict=True)
    with copy.writer() as writer:
        for key in copy.missing(keys):
            writer.add(key, source.get([keys[key]], questions=chosen)[0])
    return target


def _learned(samples: Samples, split: Split) -> Samples:
    """Return the images of a data set that a training reads."""
    return samples.subset(np.concatenate([split.train, split.val]))


def _store_digest(name: str, store: Path, vectors: Sequence[str]) -> str:
    found = read_header(store)
    own = {question.name: question for question in found.questions}
    for vector in vectors:
        if vector not in own:
            known = did_you_mean(vector, own, "it has")
            raise UsageError(f"model {name!r}: {store} has no vectors named {vector!r}{known}")
    return sha256("\n".join([found.fingerprint, *(own[v].fingerprint for v in vectors or own)]))
