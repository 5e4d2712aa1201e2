"""Whatever is written survives a kill at every point at which a file is touched.

A forked process does the work and is killed, by SIGKILL from its own audit hook, just before the
n-th time that it opens, renames, removes or makes a file or folder; for n = 1, 2, 3, ... until the
work gets through. After each kill the same work is done again and must come to the same end.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ma_agiqa.bench.grid import read_grid
from ma_agiqa.bench.run import FOLDER
from ma_agiqa.bench.run import run as run_grid
from ma_agiqa.cli.results import Printer, Results
from ma_agiqa.data import sources
from ma_agiqa.evaluation import metrics
from ma_agiqa.features.store import FeatureStore, Header, ShardWriter
from ma_agiqa.files import write_atomically
from ma_agiqa.lmm.encoder import Question
from ma_agiqa.models import checkpoint
from ma_agiqa.scale import SCHEMA
from ma_agiqa.scale import job as jobs
from ma_agiqa.training.network import find_start
from ma_agiqa.training.recipe import Recipe
from ma_agiqa.training.run import TrainRequest
from ma_agiqa.training.run_dir import Run
from ma_agiqa.types import ROW_KEYS, Row
from support.bench_desk import DATA, HEAD, PEER
from support.bench_desk import write as write_desk
from support.command_line import save_model
from support.many_pictures import folder as make_folder
from support.many_pictures import pngs

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no fork")

EVENTS = {"open", "shutil.rmtree"} | {
    f"os.{name}" for name in ("rename", "remove", "mkdir", "rmdir", "truncate", "chmod", "link")
}


def killed_at(point: int, work: Callable[[], object], within: Path | None) -> bool:
    """Do the work in a fork that dies at its `point`-th event; say whether it died of that."""
    start = "" if within is None else os.fspath(within)
    child = os.fork()
    if child == 0:
        left = [point]

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event in EVENTS and str(arguments[0]).startswith(start):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(hook)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the work itself failed"
    return False


def kills(
    work: Callable[[], object], prepare: Callable[[], object], *, within: Path | None = None
) -> Iterator[int]:
    """Kill the work at every point in turn, each time from the same start.

    Args:
        within: only where a file below it is touched.
    """
    for point in count(1):
        prepare()
        if not killed_at(point, work, within):
            assert point > 3, "hardly a file was touched: nothing was tested"
            return
        yield point


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def row(number: int) -> Row:
    return dict.fromkeys(ROW_KEYS) | {"path": f"{number}.png", "score": number / 7, "model": "m"}


def write_results(target: Path, computed: list[int]) -> None:
    """Do what `score --output` does, for six images that need no network."""
    results = Results(Printer(), to=target, model="m")
    journal = results.journal
    assert journal is not None
    with results:
        for number in range(6):
            sha256, name = f"{number:064d}", f"{number}.png"
            kept = journal.reusable(name, sha256) if journal.knows(name) else None
            if kept is None:
                computed.append(number)
            results.add(kept or row(number), sha256=sha256, reused=kept is not None)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_result_file_is_whole_or_absent_and_the_next_run_completes_it(
    tmp_path: Path, suffix: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / f"scores{suffix}"
    write_results(target, [])
    wanted = target.read_bytes()
    for _ in kills(lambda: write_results(target, []), lambda: clear(folder)):
        assert not target.exists() or target.read_bytes() == wanted
        partial = target.with_name(target.name + ".partial")
        kept = partial.read_bytes().count(b'"check"') if partial.exists() else 0
        computed: list[int] = []
        write_results(target, computed)
        assert len(computed) == 6 - kept, "a kept row was computed again"
        assert [path.name for path in folder.iterdir()] == [target.name], "something was left"
        assert target.read_bytes() == wanted


def test_a_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    for _ in kills(
        lambda: write_atomically(target, "new" * 1000), lambda: write_atomically(target, "old")
    ):
        assert target.read_text() in ("old", "new" * 1000)


def test_a_model_directory_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", -1.0)  # what a kill left is removed at once
    directory = tmp_path / "model"
    either = {checkpoint.fingerprint(save_model(directory, seed=seed)) for seed in (0, 1)}
    assert len(either) == 2
    for _ in kills(lambda: save_model(directory, seed=1), lambda: save_model(directory, seed=0)):
        assert checkpoint.fingerprint(directory) in either
        checkpoint.load(directory)
        save_model(directory, seed=1)
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_feature_store_loses_only_what_was_not_written(tmp_path: Path) -> None:
    header = Header(encoder={"encoder": "made up"}, width=4, questions=(Question("q", "why?"),))
    names = [f"{number:064x}" for number in range(3)]
    vectors = torch.arange(12.0).reshape(3, 1, 4)

    def extract() -> None:
        store = FeatureStore.create(tmp_path / "store", header)
        with ShardWriter(store, shard_size=2) as writer:
            for name, vector in zip(names, vectors, strict=True):
                if not store.has(name):
                    writer.add(name, vector)

    def nothing() -> None:
        for path in sorted((tmp_path / "store").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()

    for _ in kills(extract, nothing):
        extract()
        store = FeatureStore.open(tmp_path / "store")
        assert torch.equal(store.get(names).float(), vectors)
        assert not store.damaged


class Counting:
    """Stands for a trainer: three numbers that follow from the epochs done."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.numbers = torch.zeros(3)

    def run_epoch(self) -> None:
        self.numbers = 3 * self.numbers + 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"numbers": self.numbers}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.numbers = state["numbers"]


def test_a_training_run_goes_on_after_the_last_epoch_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(Run, "_draw", lambda run, history: None)  # curves are TensorBoard's
    folder, epochs = tmp_path / "run", 2
    start = find_start("compact")

    def train() -> None:
        request = TrainRequest(
            data="made up",
            root=tmp_path,
            out=folder,
            recipe=Recipe(),
            resume=(folder / "run.json").exists(),
        )
        trainer = Counting()
        with closing(Run(request, None, start=start)) as run:
            run.begin([])
            history, _ = run.restore(trainer)  # type: ignore[arg-type]
            for epoch in range(len(history), epochs):
                trainer.run_epoch()
                history.append({"epoch": epoch + 1})
                save_model(run.model, seed=epoch)
                run.record(trainer, history, None)  # type: ignore[arg-type]

    def nothing() -> None:
        if folder.exists():
            shutil.rmtree(folder)

    for _ in kills(train, nothing, within=folder):
        train()
        assert (folder / "log.jsonl").read_text().count("\n") == epochs
        state = torch.load(folder / "state.pt", weights_only=True)
        assert state["trainer"]["numbers"].tolist() == [4.0] * 3  # 1, 4
        assert [line["epoch"] for line in state["history"]] == [1, 2]
        checkpoint.load(folder / "model")


def test_a_job_of_many_pictures_goes_on_from_every_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LEAST_CHUNK", 2)
    source = make_folder(tmp_path / "in", pngs(5))
    out = tmp_path / "out"

    def score() -> tuple[int, int]:
        job = jobs.Job.begin(
            str(out),
            sources.plan(str(source)),
            {"model": "stands for one", "contributions": False},
            fingerprint="f",
            workers=jobs.MOST_TWICE // 2,
        )
        for task in job.tasks():
            for chunk in Naming(job.settings).work(task):
                job.add(chunk)
        return job.write_result()

    def nothing() -> None:
        if out.exists():
            shutil.rmtree(out)

    for _ in kills(score, nothing, within=out):
        assert score() == (5, 0)
        rows = pq.read_table(out / "scores-00000.parquet")["id"].to_pylist()
        assert rows == sorted(str(path) for path in source.iterdir())
        left = {path.name for path in out.iterdir() if not path.name.startswith(".")}
        assert left == {"_job.json", "scores-00000.parquet"}


class Naming(jobs.Worker):
    """Stands for a worker: its scores need no network."""

    def __init__(self, settings: jobs.Settings) -> None:
        self.settings, self.place, self.table = settings, jobs.Place(settings.place), self

    def score(self, items: Iterable[sources.Item]) -> list[str]:
        return [item.name for item in items]

    def to_table(self, names: Iterable[str]) -> pa.Table:
        rows = [dict.fromkeys(SCHEMA.names) | {"id": name, "score": 1.0} for name in names]
        return pa.Table.from_pylist(rows, schema=SCHEMA)


class Quiet:
    """Counts the jobs of a benchmark that were not kept."""

    def __init__(self) -> None:
        self.fresh = 0

    def cell(self, number: int, count: int, title: str, *, kept: bool) -> None:
        self.fresh += not kept

    def failed(self, title: str, error: str) -> None:
        raise AssertionError(f"{title}: {error}")


def test_a_benchmark_folder_keeps_every_job_that_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_EVALUATIONS", 20)  # fits of ten images take most of the time
    desk = write_desk(tmp_path)
    (desk / "grid.toml").write_text(
        HEAD.replace('baseline = "probe"\n', "") + DATA.format(name="a") + PEER
    )
    grid, out = read_grid(desk / "grid.toml"), tmp_path / "out"

    def benchmark(observer: Quiet) -> None:
        run_grid(grid, out, device="cpu", observer=observer)  # type: ignore[arg-type]

    def nothing() -> None:
        if out.exists():
            shutil.rmtree(out)

    first = Quiet()
    benchmark(first)
    assert first.fresh == 2
    for _ in kills(lambda: benchmark(Quiet()), nothing, within=out):
        jobs = list((out / FOLDER).glob("[!.]*.json")) if (out / FOLDER).exists() else []
        again = Quiet()
        benchmark(again)
        assert again.fresh == 2 - len(jobs)
        assert len(list((out / FOLDER).glob("[!.]*.json"))) == 2
