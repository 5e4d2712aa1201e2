"""A job of many pictures: what is done stays done, nothing twice, nothing missing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from ma_agiqa.data import sources
from ma_agiqa.errors import ImageError, OutputError
from ma_agiqa.scale import job as jobs
from ma_agiqa.scale.engines import run_here
from ma_agiqa.scale.job import Chunk, Job, Note, Place, Worker
from support import many_pictures as make
from support.command_line import MAIN, run, save_model

SETTINGS: dict[str, Any] = {"contributions": False, "isolate": False, "threads": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(tmp_path_factory.mktemp("model") / "tiny", seed=0))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = make.folder(tmp_path / "in", {"x.png": make.png(100)})
    make.tar(root / "a.tar", make.pngs(9))
    make.parquet(root / "b.parquet", make.pngs(5))
    return root


def begin(source: Path, out: Path | str, model: str) -> Job:
    units = sources.plan(str(source), column="content")
    chosen = SETTINGS | {"model": model}
    return Job.begin(str(out), units, chosen, fingerprint="f", workers=jobs.MOST_TWICE // 4)


def finish(job: Job) -> tuple[int, int]:
    tasks = [task.to_json() for task in job.tasks()]
    for name in run_here(tasks, partial(Worker, job.settings)):
        chunk = Chunk.from_name(name)
        assert chunk is not None
        job.add(chunk)
    return job.write_result()


def rows(out: Path) -> list[dict[str, Any]]:
    return [
        row for file in sorted(out.glob("*.parquet")) for row in pq.read_table(file).to_pylist()
    ]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LEAST_CHUNK", 1)


def test_a_job_scores_every_picture_once_and_a_second_run_none(
    tmp_path: Path, source: Path, model: str
) -> None:
    out = tmp_path / "out"
    job = begin(source, out, model)
    assert not list(out.glob("*.parquet"))
    assert finish(job) == (15, 0)
    found = rows(out)
    assert [row["id"].rsplit("/")[-1] for row in found[:9]] == list(make.pngs(9))
    assert max(Counter(row["id"] for row in found).values()) == 1
    assert all(row["score"] is not None and row["error"] is None for row in found)
    assert not (out / "_work").exists()
    again = begin(source, out, model)
    assert (again.tasks(), again.reused, again.write_result()) == ([], 15, (15, 0))
    assert rows(out) == found


def test_failed_rows_are_tried_again_and_successes_are_kept(
    tmp_path: Path, source: Path, model: str
) -> None:
    (source / "y.png").write_bytes(b"no picture yet")
    out = tmp_path / "out"
    assert finish(begin(source, out, model)) == (15, 1)
    before = {row["id"]: row["score"] for row in rows(out)}
    (bad,) = [name for name, score in before.items() if score is None]
    assert bad.endswith("y.png")
    (source / "y.png").write_bytes(make.png(7))
    job = begin(source, out, model)
    assert len(job.tasks()) == 1
    read: list[str] = []
    original = sources.read_bytes

    def counted(place: str) -> bytes:
        read.append(place)
        return original(place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "read_bytes", counted)
        assert finish(job) == (16, 0)
    assert read == [bad], "what has a score is not scored again"
    after = {row["id"]: row["score"] for row in rows(out)}
    assert after.pop(bad) is not None
    before.pop(bad)
    assert after == before


def test_of_two_chunks_of_one_place_the_one_with_fewer_failures_counts(
    tmp_path: Path, source: Path, model: str
) -> None:
    job = begin(source, tmp_path / "out", model)
    for failed in (2, 0, 1):
        job.add(Chunk(unit=0, number=0, rows=4, failed=failed, last=False))
    assert job.chunks[0, 0].failed == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda kept: kept | {"model": "another"}, "model"),
        (lambda kept: kept | {"version": "0"}, "version of this package"),
        (lambda kept: kept | {"source": "another"}, "source"),
        (lambda kept: kept | {"contributions": True}, "choice of --contributions"),
    ],
)
def test_a_job_of_another_kind_is_refused(
    tmp_path: Path, source: Path, model: str, change: Callable[[Any], Any], said: str
) -> None:
    out = tmp_path / "out"
    begin(source, out, model)
    kept = json.loads((out / "_job.json").read_text())
    (out / "_job.json").write_text(json.dumps(change(kept)))
    with pytest.raises(OutputError, match=f"holds a job of another {said}"):
        begin(source, out, model)


def test_a_source_that_changed_is_another_source(tmp_path: Path, source: Path, model: str) -> None:
    begin(source, tmp_path / "out", model)
    make.tar(source / "a.tar", make.pngs(10))
    with pytest.raises(OutputError, match="another source"):
        begin(source, tmp_path / "out", model)


def test_a_place_with_other_files_or_none_at_all_is_refused(
    tmp_path: Path, source: Path, model: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="holds other files"):
        begin(source, tmp_path / "full", model)
    with pytest.raises(OutputError, match="cannot be"):
        begin(source, tmp_path / "full" / "letter.txt", model)
    with pytest.raises(OutputError, match="cannot be"):
        begin(source, "https://127.0.0.1:9/out", model)


def test_a_result_may_lie_in_an_object_store(tmp_path: Path, source: Path, model: str) -> None:
    fs = fsspec.filesystem("memory")
    try:
        assert finish(begin(source, "memory://results/one", model)) == (15, 0)
        assert sorted(fs.find("/results")) == [
            "/results/one/_job.json",
            "/results/one/scores-00000.parquet",
        ]
    finally:
        fs.rm("/results", recursive=True)


@pytest.mark.parametrize(
    ("workers", "most_twice", "chunk"),
    [(1, 1000, 250), (10, 1000, 100), (64, 1000, 16), (64, 16_000, 250), (64, 1, 16)],
)
def test_workers_share_what_a_kill_may_cost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Path,
    workers: int,
    most_twice: int,
    chunk: int,
) -> None:
    monkeypatch.setattr(jobs, "LEAST_CHUNK", 16)
    job = Job.begin(
        str(tmp_path / "out"),
        sources.plan(str(source), column="content"),
        {"model": "m", "contributions": False},
        fingerprint="f",
        workers=workers,
        most_twice=most_twice,
    )
    assert job.settings.chunk == chunk


@pytest.mark.parametrize("count", [0, 1, 3, 4, 8, 9])
def test_chunks_say_which_is_the_last(tmp_path: Path, model: str, count: int) -> None:
    job = begin(make.tar(tmp_path / "a.tar", make.pngs(count)), tmp_path / "out", model)
    assert finish(job) == (count, 0)
    whole, rest = divmod(count, 4)
    wanted = [4] * whole + ([rest] if rest or not whole else [])
    assert [chunk.rows for chunk in job.chunks.values()] == wanted
    assert [chunk.number for chunk in job.chunks.values()] == list(range(len(wanted)))
    assert [chunk.last for chunk in job.chunks.values()] == [False] * (len(wanted) - 1) + [True]


def test_few_pictures_are_held_at_once(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: weakref.WeakSet[sources.Item] = weakref.WeakSet()
    pictures = [make.png(0)] * 160 + [b"no picture yet"] + [make.png(1)] * 39
    most = 0

    def read(data: bytes) -> bytes:
        nonlocal most
        most = max(most, len(held))
        return data

    def items(unit: sources.Unit) -> Iterator[sources.Item]:
        for number, data in enumerate(pictures):
            item = sources.Item(f"{number}.png", partial(read, data))
            held.add(item)
            yield item

    monkeypatch.setattr(sources.Unit, "items", items)
    unit = sources.Unit("tar", ("a.tar",))
    worker = Worker(jobs.Settings(str(tmp_path), 150, "run", model, isolate=False, threads=1))
    done = tuple(worker.work(jobs.Task(0, unit)))
    assert [(chunk.rows, chunk.failed) for chunk in done] == [(150, 0), (50, 1)]
    pictures[160] = make.png(2)
    again = tuple(worker.work(jobs.Task(0, unit, done)))
    assert [(chunk.rows, chunk.failed) for chunk in again] == [(50, 0)]
    assert most <= 3 * worker.table.scorer.batch_size + 3, "what the scorer takes ahead, not chunks"


def test_an_archive_that_broke_off_is_read_on_by_the_next_run(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = make.tar(tmp_path / "a.tar", make.pngs(9)), tmp_path / "out"
    original = sources.Unit.items

    def broken_off(unit: sources.Unit) -> Iterator[sources.Item]:
        yield from islice(original(unit), 2)
        yield sources.Item(str(source), partial(sources.read_bytes, "gone"))

    with monkeypatch.context() as patch:
        patch.setattr(sources.Unit, "items", broken_off)
        assert finish(begin(source, out, model)) == (2, 1)
    assert finish(begin(source, out, model)) == (9, 0)
    assert [row["id"].rsplit("/")[-1] for row in rows(out)] == list(make.pngs(9))


def test_names_of_chunks_are_read_as_they_are_written() -> None:
    for chunk in (Chunk(3, 14, 250, 7, last=False), Chunk(0, 0, 0, 0, last=True)):
        assert Chunk.from_name(chunk.name) == chunk
    assert Chunk.from_name("000003.note") is None


def test_a_picture_that_kills_its_worker_twice_is_an_error(tmp_path: Path) -> None:
    place, item = Place(str(tmp_path)), sources.Item("a.png", lambda: b"")
    first = Note(place, 0, "run")
    assert not first.careful, "the first try goes fast"
    second = Note(place, 0, "run")
    assert second.careful, "the first worker is gone without a word"
    assert second.watched(item) is item
    second.begin(item)
    third = Note(place, 0, "run")
    with pytest.raises(ImageError, match="makes the process that scores it end"):
        third.watched(item).read()
    third.end()
    assert not Note(place, 0, "run").careful


def test_a_run_that_was_killed_blames_its_picture_only_the_second_time(tmp_path: Path) -> None:
    place, item = Place(str(tmp_path)), sources.Item("a.png", lambda: b"")
    Note(place, 0, "first")
    Note(place, 0, "second").begin(item)
    third = Note(place, 0, "third")
    assert third.watched(item) is item
    third.begin(item)
    with pytest.raises(ImageError):
        Note(place, 0, "fourth").watched(item).read()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no SIGKILL")
def test_a_command_that_is_killed_goes_on_and_loses_a_chunk_at_most(
    tmp_path: Path, model: str
) -> None:
    count = 600
    source, out = make.folder(tmp_path / "in", make.pngs(count)), tmp_path / "out"
    words = [str(source), "--out", str(out), "--model", model, "--device", "cpu"]
    kept = 0
    for _ in range(2):
        process = subprocess.Popen([*MAIN, "score-many", *words], stderr=subprocess.DEVNULL)
        while process.poll() is None:
            done = len(list((out / "_work").glob("[0-9]*.parquet"))) if out.exists() else 0
            if done > kept:
                process.send_signal(signal.SIGKILL)
                kept = done
            time.sleep(0.01)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        assert not list(out.glob("*.parquet")), "what is not whole has no final name"
    result = run("score-many", *words)
    assert result.exit_code == 0, result.stderr
    before = int(result.stderr.split(" scored before")[0].rsplit(" ", 1)[1])
    assert before >= sources.LEAST_UNIT * kept
    assert f"{count} images: {count - before} scored" in result.stderr
    names = [row["id"] for row in rows(out)]
    assert sorted(names) == sorted(str(path) for path in source.iterdir())


def test_a_result_may_lie_inside_its_source(tmp_path: Path, model: str) -> None:
    source = make.folder(tmp_path / "in", make.pngs(3))
    refused = run("score-many", source, "--out", source, "--model", model)
    assert refused.exit_code == 2
    assert "holds other files" in refused.stderr
    words = (source, "--out", source / "out", "--model", model, "--no-isolate")
    assert run("score-many", *words).exit_code == 0
    again = run("score-many", *words)
    assert again.exit_code == 0, again.stderr
    assert "3 images: 0 scored, 3 scored before" in again.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such names everywhere")
def test_names_that_are_not_utf8_are_escaped(tmp_path: Path, model: str) -> None:
    source, out = make.folder(tmp_path / "in", make.pngs(1)), tmp_path / "out"
    for name, data in ((b"\xff.png", make.png(1)), (b"\xfe.png", b"no picture")):
        Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_bytes(data)
    result = run("score-many", source, "--out", out, "--model", model, "--no-isolate")
    assert result.exit_code == 1, result.stderr
    good, bad, escaped = rows(out)
    assert (good["error"], escaped["error"]) == (None, None)
    assert escaped["id"].endswith("\\udcff.png")
    assert bad["id"].endswith("\\udcfe.png")
    assert "is not an image" in bad["error"]


def test_the_command_counts_fails_and_reports(tmp_path: Path, source: Path, model: str) -> None:
    out = tmp_path / "out"
    (source / "y.png").write_bytes(b"no")
    words = (source, "--out", out, "--column", "content", "--model", model, "--no-isolate")
    result = run("score-many", *words)
    assert result.exit_code == 1
    assert "16 images: 15 scored" in result.stderr
    assert "0 scored before, 1 failed" in result.stderr
    assert run("score-many", source, "--out", out, "--column", "nothing").exit_code == 2
    assert run("score-many", source, "--out", out, "--ray-workers", "2").exit_code == 2
    shutil.rmtree(out)
    result = run("score-many", tmp_path / "absent", "--out", out, "--model", model)
    assert result.exit_code == 2
    assert "absent: no such file" in result.stderr
