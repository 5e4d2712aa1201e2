"""The jobs of a grid: finished ones stay, failed ones are rows, the rest goes on.

They run one by one; of those that learn several may run at once, each in a process of its own.

A finished job is one JSON file in OUT/cells, written whole. Its name and content carry the
settings and a content hash of all that the result was made of; whatever differs is another job.
The file holds the predictions, so that models can be compared image by image. It holds no human
scores: these belong to the data set. Images are known by name here.

A killed benchmark that is started again keeps the finished jobs and tries the failed ones again.
A full disk or Ctrl-C ends the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ma_agiqa import devices
from ma_agiqa.bench.grid import Grid
from ma_agiqa.bench.job import (
    Bench,
    Evaluation,
    Job,
    LoadedDataset,
    ModelSpec,
    Reader,
    split_digest,
)
from ma_agiqa.data import splits
from ma_agiqa.errors import MAAGIQAError, OutputError
from ma_agiqa.evaluation.report import without_nan
from ma_agiqa.files import lock_folder, write_atomically
from ma_agiqa.training.data import Source
from ma_agiqa.training.run import Observer, Silence
from ma_agiqa.version import __version__

FOLDER = "cells"


class BenchObserver(Observer, Protocol):
    """Gets news of a benchmark, and of its trainings."""

    def cell(self, number: int, total: int, title: str, *, kept: bool) -> None: ...
    def failed(self, title: str, error: str) -> None: ...


class Unobserved(Silence):
    """The observer of a job in a process of its own."""

    def cell(self, number: int, total: int, title: str, *, kept: bool) -> None: ...
    def failed(self, title: str, error: str) -> None: ...


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a job: evaluations, that of its own split first, or an error.

    Attributes:
        detail: what else there is to know, such as a probe's strength.
    """

    job: Job
    evaluations: tuple[Evaluation, ...]
    error: str | None
    seconds: float
    detail: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A grid with the results of all its jobs, in order."""

    grid: Grid
    datasets: Sequence[LoadedDataset]
    results: Sequence[Result]

    @property
    def failures(self) -> int:
        """How many jobs have no result."""
        return sum(result.error is not None for result in self.results)


def prepare(grid: Grid) -> tuple[list[LoadedDataset], list[Job]]:
    """Look up everything that the grid names; return data sets and jobs in its order.

    Raises:
        UsageError: an unknown data set, split, target, model, question or metric.
        DataError, FeatureError, ModelError: something named is missing or damaged.
    """
    reader = Reader()
    datasets = [spec.load(grid.part, reader) for spec in grid.data]
    digests = [model.digest(datasets) for model in grid.model]
    jobs = [
        _job(grid, model, data, split, seed, digest, datasets, reader)
        for model, digest in zip(grid.model, digests, strict=True)
        for data in datasets
        for split, seed in model.runs(data, grid.seeds)
    ]
    return datasets, jobs


def _job(
    grid: Grid,
    model: ModelSpec,
    data: LoadedDataset,
    split: str,
    seed: int | None,
    digest: str,
    datasets: Sequence[LoadedDataset],
    reader: Reader,
) -> Job:
    crossing = grid.cross and model.learns
    others = tuple(other for other in datasets if crossing and other is not data)
    settings = {
        "kind": model.kind,
        "arguments": {
            key: _plain(value)
            for key, value in dataclasses.asdict(model).items()
            if key not in ("name", "splits", "also")
        },
        "content": digest,
        "data": data.digest,
        "also": [_also(source, data, reader) for source in model.sources(split)],
        "split": split,
        "rows": data.split_digest(split),
        "seed": seed,
        "resamples": grid.resamples,
        "others": [
            [other.name, other.digest, other.first_split, other.split_digest(other.first_split)]
            for other in others
        ],
        "version": __version__,
    }
    if grid.part != "test":
        settings["part"] = grid.part
    return Job(model, data, split, seed, others, settings)


def _also(source: Source, data: LoadedDataset, reader: Reader) -> list[str]:
    """Return name, content and split of a further data set to learn from; see `load_sets`."""
    samples = reader.samples(source.data, source.root, data.columns)
    target = data.target if data.target in samples.targets else next(iter(samples.targets))
    split = splits.resolve(source.split, samples, source.root)
    return [samples.dataset, reader.digest(samples, target), split.name, split_digest(split)]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value.name if isinstance(value, Path) else value


def run(
    grid: Grid,
    out: Path,
    *,
    device: str = "auto",
    at_once: int = 1,
    observer: BenchObserver,
) -> Outcome:
    """Run what has no result yet; return all results.

    Args:
        at_once: how many jobs that learn may run at the same time, each in a process of its own.
            They share the device and the cores.

    Raises:
        UsageError, DataError, FeatureError, ModelError: the grid names what is not there, or
            the device cannot be used; nothing was run.
        OutputError: results cannot be written.
    """
    devices.resolve(device)
    _require_own(out / "results.json")
    datasets, jobs = prepare(grid)
    bench = Bench(out=out, resamples=grid.resamples, device=device, observer=observer)
    results = []
    with lock_folder(out), _ahead(jobs if at_once > 1 else [], bench, at_once) as ahead:
        for number, job in enumerate(jobs, start=1):
            result = None if job.key in ahead else _read(out, job)
            observer.cell(number, len(jobs), job.title, kept=result is not None)
            if job.key in ahead:
                result = _awaited(ahead[job.key], job)
            elif result is None:
                result = _finish(job, bench)
            if result.error is not None:
                observer.failed(job.title, result.error)
            results.append(result)
    return Outcome(grid, datasets, results)


@contextlib.contextmanager
def _ahead(jobs: Sequence[Job], bench: Bench, at_once: int) -> Iterator[dict[str, Future[Result]]]:
    """Start those of the jobs that learn and have no result, in processes; give them by key."""
    learning = [job for job in jobs if job.model.learns and _read(bench.out, job) is None]
    if not learning:
        yield {}
        return
    threads = max(1, devices.available_cores() // at_once)
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        at_once, spawn, initializer=torch.set_num_threads, initargs=(threads,)
    )
    unobserved = dataclasses.replace(bench, observer=Unobserved())
    try:
        once = {job.key: job for job in learning}  # two models of one setting share a cell
        yield {key: pool.submit(_finish, job, unobserved) for key, job in once.items()}
    finally:
        pool.shutdown(cancel_futures=True)


def _awaited(future: Future[Result], job: Job) -> Result:
    try:
        return dataclasses.replace(future.result(), job=job)
    except BrokenProcessPool:
        error = "its process ended without a word; memory may have run out: fewer --jobs"
        return Result(job, (), error, 0.0, {})


def _require_own(results: Path) -> None:
    """Refuse to write over a file that no benchmark has written."""
    try:
        data = json.loads(results.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError):
        data = None
    if not (isinstance(data, dict) and {"cells", "summary"} <= data.keys()):
        raise OutputError(
            "is there and was not written by a benchmark", path=results, remedy="give another --out"
        )


def _finish(job: Job, bench: Bench) -> Result:
    result = _run(job, bench)
    _write(bench.out, result)
    return result


def _run(job: Job, bench: Bench) -> Result:
    started = time.perf_counter()
    try:
        evaluations, detail = job.model.run(job, bench)
    except OutputError:
        raise  # the next job could not be written either
    except MAAGIQAError as error:
        return Result(job, (), str(error), time.perf_counter() - started, {})
    except Exception as error:  # a fault of ours or of a library is a row with its name
        message = f"{type(error).__name__}: {error}"
        return Result(job, (), message, time.perf_counter() - started, {})
    return Result(job, tuple(evaluations), None, time.perf_counter() - started, detail)


def _read(out: Path, job: Job) -> Result | None:
    """Return the finished job of these settings; None when it has to run."""
    try:
        data = json.loads(_file(out, job).read_text(encoding="utf-8"))
        if data["settings"] != json.loads(json.dumps(job.settings)) or data["error"] is not None:
            return None
        evaluations = tuple(
            Evaluation(
                data=entry["data"],
                split=entry["split"],
                report=entry["report"],
                names=tuple(entry["names"]),
                pred=tuple(float(value) for value in entry["pred"]),
            )
            for entry in data["judgements"]
        )
        return Result(job, evaluations, None, float(data["seconds"]), data["detail"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or damaged by other hands: run it


def _write(out: Path, result: Result) -> None:
    data = {
        "settings": result.job.settings,
        "title": result.job.title,
        "error": result.error,
        "seconds": result.seconds,
        "detail": result.detail,
        "judgements": [dataclasses.asdict(evaluation) for evaluation in result.evaluations],
    }
    text = json.dumps(without_nan(data), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(_file(out, result.job), text + "\n")


def _file(out: Path, job: Job) -> Path:
    return out / FOLDER / f"{job.key}.json"
