"""What the kinds of model of a grid share: a data set, a job on it, and what comes of it.

A kind of model answers for itself, see `ModelSpec`. All splits of a data set share the scores of
what does not learn here, kept in OUT/scores.

Shapes: n images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ma_agiqa.data import datasets
from ma_agiqa.data.samples import Samples, TableColumns
from ma_agiqa.data.splits import Split
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.evaluation.evaluate import scores_of
from ma_agiqa.evaluation.report import EvaluationReport, evaluate_predictions
from ma_agiqa.features.source import hash_files
from ma_agiqa.files import write_atomically
from ma_agiqa.training.data import Source
from ma_agiqa.training.run import Observer

Predict: TypeAlias = "Callable[[LoadedDataset, str], NDArray[np.float64]]"
"""Data set and name of a split -> a score for each judged image, (n,)."""


class Reader:
    """Reads the data sets of a grid: each table, and each image's file to hash it, once."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, Path, TableColumns], Samples] = {}
        self._hashes: dict[Path, str] = {}

    def samples(self, data: str, root: Path, columns: TableColumns) -> Samples:
        """Return a data set, as `datasets.load`."""
        key = (data, root, columns)
        if key not in self._samples:
            self._samples[key] = datasets.load(data, root, columns)
        return self._samples[key]

    def digest(self, samples: Samples, target: str) -> str:
        """Return the content hash of names, scores, groups and those images that are there.

        Raises:
            UsageError: no such target.
            ImageError: an image's file cannot be read.
        """
        new = [path for path in samples.path if path not in self._hashes]
        there = [path for path in new if path.is_file()]
        self._hashes.update(dict.fromkeys(new, ""))
        self._hashes.update(zip(there, hash_files(there), strict=True))
        content = {
            "target": target,
            "names": samples.name,
            "scores": samples.target(target).tolist(),
            "groups": dict(samples.groups),
            "images": [self._hashes[path] for path in samples.path],
        }
        return sha256(json.dumps(content, sort_keys=True))


def split_digest(split: Split) -> str:
    """Return the content hash of the rows of a split, and of what is said of it."""
    rows = [part.tolist() for part in (split.train, split.val, split.test)]
    return sha256(json.dumps([split.protocol, split.caveats, rows]))


@dataclass(frozen=True, eq=False)
class LoadedDataset:
    """One data set of a grid, read.

    Attributes:
        name: what results call it.
        data, root, columns: where it was read from.
        target: the human score that counts.
        splits: by name, in the order of the grid.
        part: of each split, on which models are judged.
        digest: content hash; see `Reader.digest`.
    """

    name: str
    data: str
    root: Path
    columns: TableColumns
    samples: Samples
    target: str
    splits: dict[str, Split]
    part: str
    digest: str

    @property
    def first_split(self) -> str:
        """Name of the split on which models trained on other data sets are judged."""
        return next(iter(self.splits))

    def split_digest(self, split: str) -> str:
        """Return the content hash of a split."""
        return split_digest(self.splits[split])

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of the images on which models are judged on a split."""
        return self.splits[split].part(self.part)

    def judged(self, split: str) -> Samples:
        """Return the images on which models are judged on a split."""
        return self.samples.subset(self.rows(split))

    def judged_anywhere(self) -> Samples:
        """Return the images on which models are judged on any split, ascending."""
        rows = [self.rows(split) for split in self.splits]
        return self.samples.subset(np.unique(np.concatenate(rows)))


@dataclass(frozen=True, eq=False)
class Job:
    """A model on one split of one data set with one seed.

    Attributes:
        seed: of the training; None where nothing depends on one.
        others: data sets it is judged on besides its own, on their first split.
        settings: all that its result depends on, as plain data.
    """

    model: ModelSpec
    data: LoadedDataset
    split: str
    seed: int | None
    others: tuple[LoadedDataset, ...]
    settings: dict[str, Any]

    @property
    def title(self) -> str:
        """For people."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.model.name} on {self.data.name} {self.split}{seed}"

    @property
    def key(self) -> str:
        """File name: readable, and different whenever a setting differs."""
        readable = re.sub(r"[^a-zA-Z0-9.]+", "-", self.title).strip("-").lower()[:80]
        return f"{readable}-{sha256(json.dumps(self.settings, sort_keys=True), length=12)}"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model on the judged part of one split; `report` is as `EvaluationReport.to_dict`."""

    data: str
    split: str
    report: Mapping[str, Any]
    names: tuple[str, ...]
    pred: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Bench:
    """What all jobs share: where files go, and what the grid says of all of them."""

    out: Path
    resamples: int
    device: str
    observer: Observer

    def report(
        self, job: Job, data: LoadedDataset, split: str, pred: NDArray[np.float64]
    ) -> EvaluationReport:
        """Judge predictions for the judged images of a split, (n,)."""
        return evaluate_predictions(
            data.samples,
            data.splits[split],
            data.part,
            pred,
            target=data.target,
            model=job.model.name,
            resamples=self.resamples,
        )

    def report_scores(
        self, job: Job, scores: Mapping[str, float], *, source: Path, negated: bool = False
    ) -> EvaluationReport:
        """Judge scores by name; `source` is what errors call them."""
        pred = scores_of(scores, job.data.judged(job.split), source=source)
        return self.report(job, job.data, job.split, -pred if negated else pred)

    def evaluate(self, job: Job, predict: Predict) -> list[Evaluation]:
        """Judge on the job's own split, then on the first split of each other data set."""
        places = [(job.data, job.split), *((other, other.first_split) for other in job.others)]
        return [
            evaluation(data, self.report(job, data, split, predict(data, split)))
            for data, split in places
        ]

    def score_once(self, job: Job, score: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return scores of all judged images of a data set, from OUT/scores where they are."""
        settings = {
            key: value
            for key, value in job.settings.items()
            if key not in ("split", "rows", "resamples", "others")
        }
        settings["tested"] = {split: job.data.split_digest(split) for split in job.data.splits}
        shared = dataclasses.replace(job, split="all", settings=settings)
        path = self.out / "scores" / f"{shared.key}.json"
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["settings"] == json.loads(json.dumps(settings)):
                return dict(kept["scores"])
        except (OSError, ValueError, KeyError):
            pass  # not there, or damaged by other hands: compute
        scores = score()
        if not scores:
            raise UsageError(f"{job.data.name} has no images in the {job.data.part} part")
        text = json.dumps({"settings": settings, "scores": scores}, indent=1)
        write_atomically(path, text + "\n")
        return scores


RunOutput: TypeAlias = tuple[list[Evaluation], dict[str, Any]]
"""Evaluations, that of the job's own split first, and what else there is to know."""


@dataclass(frozen=True)
class ModelSpec:
    """One model of a grid. The fields of its kind are the keys of its TOML table.

    Attributes:
        kind: name in `KINDS`.
        learns: whether it learns here, from the training part of each split.
        name: what results call it.
    """

    kind: ClassVar[str]
    learns: ClassVar[bool] = False

    name: str

    def placed(self, folder: Path) -> ModelSpec:
        """Return the model with the paths that the strict decoder did not know as such."""
        return self

    def check(self, splits: Sequence[str]) -> None:
        """See whether the arguments fit together; `splits` are those of the grid.

        Raises:
            UsageError, ModelError: they do not.
        """

    def sources(self, split: str) -> tuple[Source, ...]:
        """Return the data sets it learns from besides its own."""
        return ()

    def digest(self, datasets: Sequence[LoadedDataset]) -> str:
        """Return the content hash of what it is made of, having checked that it is there.

        Raises:
            UsageError, DataError, FeatureError, ModelError: something is missing or damaged.
        """
        raise NotImplementedError

    def runs(self, data: LoadedDataset, seeds: Sequence[int]) -> Iterator[tuple[str, int | None]]:
        """Yield split and seed of each run on a data set."""
        yield from ((split, None) for split in data.splits)

    def run(self, job: Job, bench: Bench) -> RunOutput:
        """Do one job.

        Raises:
            MAAGIQAError: whatever prevents a result.
        """
        raise NotImplementedError


def placed_data(data: str, folder: Path) -> str:
    """Return the name of a data set, or the path of a table that starts at `folder`."""
    return str(folder / data) if Path(data).suffix else data


def evaluation(data: LoadedDataset, report: EvaluationReport, *caveats: str) -> Evaluation:
    """Return what is kept of a report, with further caveats."""
    report = dataclasses.replace(report, caveats=(*report.caveats, *caveats))
    return Evaluation(data.name, report.split, report.to_dict(), report.names, report.pred)


MOST_SPLITS = 1000


def expand_splits(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the splits that names, `ipce` and ranges such as `prompt-0..4` stand for.

    Raises:
        UsageError: a range of more than `MOST_SPLITS`.
    """
    names: list[str] = []
    for text in texts:
        match = re.fullmatch(r"(\w+)-(\d+)\.\.(\d+)", "ipce-01..10" if text == "ipce" else text)
        if match is None:
            names.append(text)
            continue
        kind, first, last = match.groups()
        numbers = range(int(first), int(last) + 1)
        if int(last) - int(first) >= MOST_SPLITS:
            raise UsageError(f"{text} stands for more than {MOST_SPLITS} splits")
        names += [f"{kind}-{number:0{len(first)}d}" for number in numbers]
    return tuple(names)


def file_sha256(path: Path) -> str:
    """Return the start of the SHA-256 of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return sha256(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from error


def sha256(data: bytes | str, *, length: int = 16) -> str:
    """Return the start of the SHA-256 of bytes or text, in hexadecimal."""
    data = data.encode() if isinstance(data, str) else data
    return hashlib.sha256(data).hexdigest()[:length]
