"""What an engine costs: the same pictures by `score`, by `score-many` here and on Ray, by Daft.

    python benchmarks/scale.py [--pictures FOLDER] [--images 10000] [--few 50] [--out FILE]

One run, each way in a process of its own, in turn, on the same cores:

    score       `ma-agiqa score FOLDER --output FILE`; what the machine can do
    here        `ma-agiqa score-many`, in one process, with and without decoding in child processes
    ray-1, -2   `score-many --engine ray` with one and two actors
    daft        `ScoreTable` in a Daft class of two processes, from and to Parquet
    s3          `here`, pictures and result in an S3 store (moto's server on the loopback)

Beside them what one process does for all: plan a million rows of a table of addresses, and put
the chunks of a million scores together.

Every way is run with few pictures as well: what that takes is start-up, and the rate is that of the
rest. Memory is the sum over all of its processes, sampled. Every way has to give the same
scores, to the last bit.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from machine import keep
from score import pick_images

from ma_agiqa.data import sources
from ma_agiqa.provenance import environment
from ma_agiqa.scale import SCHEMA
from ma_agiqa.scale import job as jobs

MARK = "MA_AGIQA_BENCHMARK"
BUCKET = "pictures"
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}

DAFT = """
import sys, daft, pyarrow as pa
from daft import DataType, col
from ma_agiqa.scale import SCHEMA, ScoreTable

kinds = {name: DataType.from_arrow_type(SCHEMA.field(name).type) for name in SCHEMA.names}

@daft.cls(max_concurrency=2, use_process=True)
class Score:
    def __init__(self):
        self.table = ScoreTable("compact", device="cpu")

    @daft.method.batch(return_dtype=DataType.struct(kinds), batch_size=64, unnest=True)
    def __call__(self, names, content):
        table = pa.table({"id": names.to_arrow(), "bytes": content.to_arrow()})
        return self.table(table).to_struct_array()

frame = daft.read_parquet(sys.argv[1])
frame.select(Score()(col("id"), col("bytes"))).write_parquet(sys.argv[2])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="folder of images; else the samples")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--few", type=int, default=50)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table of addresses")
    parser.add_argument("--only", help="names of ways, comma-separated")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "some").mkdir()
        pictures = pick_images(options.pictures, min(1000, options.images), scratch / "some")
        few = lay_out(pictures, options.few, scratch / "few")
        many = lay_out(pictures, options.images, scratch / "many")
        with store() as endpoint:
            env = {**os.environ, **AWS, "AWS_ENDPOINT_URL": endpoint}
            for folder in (few, many):
                upload(folder, env)
            chosen = WAYS if options.only is None else options.only.split(",")
            ways = {way: measure(WAYS[way], few, many, scratch, env) for way in chosen}
        bookkeeping = keep_books(options.rows, scratch)
    scores = {way: result.pop("scores") for way, result in ways.items()}
    first = next(iter(scores.values()))
    base = ways.get("score")
    report = {
        "what": "scale",
        "command": "python " + " ".join(sys.argv),
        **dataclasses.asdict(environment()),
        "images": options.images,
        "few": options.few,
        "ways": ways,
        "same_scores": all(own == first for own in scores.values()),
        "bookkeeping": bookkeeping,
    }
    if base is not None:
        report["overhead_beyond_start"] = {
            way: round(base["images_per_second"] / own["images_per_second"] - 1, 3)
            for way, own in ways.items()
        }
    keep(report, "scale_compact", options.out)


def lay_out(pictures: list[Path], count: int, place: Path) -> Path:
    """Make `count` files with names of their own, and the same in a Parquet file."""
    folder = place / "files"
    folder.mkdir(parents=True)
    paths = []
    for number in range(count):
        source = pictures[number % len(pictures)]
        paths.append(folder / f"{number:06d}{source.suffix}")
        shutil.copyfile(source, paths[-1])
    schema = pa.schema([("id", pa.string()), ("bytes", pa.binary())])
    with pq.ParquetWriter(place / "all.parquet", schema) as writer:
        for at in range(0, count, 200):
            rows = [{"id": p.name, "bytes": p.read_bytes()} for p in paths[at : at + 200]]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return place


Way = Callable[[Path, Path], tuple[list[str], str]]
"""From a folder that `lay_out` made and a place for the result: the command, and the result."""


def scoring(place: Path, out: Path) -> tuple[list[str], str]:
    target = str(out / "scores.parquet")
    return ["-m", "ma_agiqa", "score", str(place / "files"), "--output", target, "-q"], target


def many_pictures(*words: str) -> Way:
    def command(place: Path, out: Path) -> tuple[list[str], str]:
        own = ["score-many", str(place / "files"), "--out", str(out / "o"), "-q", *words]
        return ["-m", "ma_agiqa", *own], str(out / "o")

    return command


def daft(place: Path, out: Path) -> tuple[list[str], str]:
    return ["-c", DAFT, str(place / "all.parquet"), str(out / "o")], str(out / "o")


def s3(place: Path, out: Path) -> tuple[list[str], str]:
    target = f"s3://{BUCKET}/out-{uuid.uuid4().hex}"
    own = ["score-many", f"s3://{BUCKET}/{place.name}", "--out", target, "-q"]
    return ["-m", "ma_agiqa", *own], target


WAYS: dict[str, Way] = {
    "score": scoring,
    "here": many_pictures(),
    "here, decoding in the process": many_pictures("--no-isolate"),
    "ray-1": many_pictures("--engine", "ray", "--ray-workers", "1"),
    "ray-2": many_pictures("--engine", "ray", "--ray-workers", "2"),
    "daft": daft,
    "s3": s3,
}


def measure(way: Way, few: Path, many: Path, scratch: Path, env: dict[str, str]) -> dict[str, Any]:
    """Run one way with few and with many pictures."""
    start, *_ = run(way, few, scratch, env)
    seconds, memory, scores = run(way, many, scratch, env)
    fewer, more = (len(list((place / "files").iterdir())) for place in (few, many))
    assert len(scores) == more, f"{len(scores)} of {more} have a score"
    return {
        "seconds": round(seconds, 2),
        "seconds_of_few": round(start, 2),
        "images_per_second": round((more - fewer) / (seconds - start), 2),
        "memory_mib": round(memory / 2**20),
        "scores": scores,
    }


def run(
    way: Way, place: Path, scratch: Path, env: dict[str, str]
) -> tuple[float, int, dict[str, float]]:
    """Return seconds, the most memory of all processes together, and the scores by name."""
    out = Path(tempfile.mkdtemp(dir=scratch))
    words, target = way(place, out)
    mark, most = uuid.uuid4().hex, [0]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], env={**env, MARK: mark})

    def watch() -> None:
        while process.poll() is None:
            most[0] = max(most[0], memory_of(mark))
            time.sleep(0.5)

    thread = threading.Thread(target=watch)
    thread.start()
    status = process.wait()
    seconds = time.perf_counter() - started
    thread.join()
    assert status == 0, f"{words} ended with {status}"
    os.environ.update({key: env[key] for key in (*AWS, "AWS_ENDPOINT_URL")})
    files = [target] if target.endswith(".parquet") else parquet_files(target)
    table = pd.concat([pd.read_parquet(file) for file in files])
    names = table["path" if "path" in table else "id"].str.rsplit("/", n=1).str[-1]
    return seconds, most[0], dict(zip(names, table["score"], strict=True))


def keep_books(rows: int, scratch: Path) -> dict[str, Any]:
    """Time what one process does for a job of many rows; nothing is scored."""
    uris = pa.array(f"s3://{BUCKET}/{number:012d}.jpg" for number in range(rows))
    pq.write_table(pa.table({"uri": uris}), scratch / "uris.parquet")
    random = np.random.default_rng(0)
    started = time.perf_counter()
    units = sources.plan(str(scratch / "uris.parquet"), column="uri")
    settings = {"model": "compact", "contributions": False}
    out = scratch / "books"
    job = jobs.Job.begin(str(out), units, settings, fingerprint="none", workers=1)
    text = sum(len(task.to_json()) for task in job.tasks())
    planned = time.perf_counter()
    for number, unit in enumerate(units):
        starts = range(unit.start, unit.stop, job.settings.chunk)
        for part, start in enumerate(starts):
            count = min(job.settings.chunk, unit.stop - start)
            columns = {name: [None] * count for name in SCHEMA.names} | {
                "id": uris[start : start + count],
                "score": random.uniform(0, 5, count),
                "percentile": random.uniform(0, 100, count),
                "model": ["compact"] * count,
            }
            chunk = jobs.Chunk(number, part, count, 0, last=part == len(starts) - 1)
            table = pa.table(columns, schema=SCHEMA)
            job.place.write(f"_work/{chunk.name}", jobs.to_parquet(table))
            job.add(chunk)
    begun = time.perf_counter()
    assert job.write_result() == (rows, 0)
    return {
        "rows": rows,
        "units": len(units),
        "chunks": len(job.chunks),
        "plan_seconds": round(planned - started, 2),
        "task_bytes": text,
        "result_seconds": round(time.perf_counter() - begun, 2),
        "result_bytes": sum(file.stat().st_size for file in out.glob("*.parquet")),
    }


def parquet_files(target: str) -> list[str]:
    import fsspec

    fs, path = fsspec.core.url_to_fs(target)
    return [fs.unstrip_protocol(name) for name in fs.find(path) if name.endswith(".parquet")]


def memory_of(mark: str) -> int:
    """Return the bytes that processes hold which have the mark in their environment."""
    total, page = 0, os.sysconf("SC_PAGE_SIZE")
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (place / "environ").read_bytes():
                resident, shared = (place / "statm").read_text().split()[1:3]
                total += (int(resident) - int(shared)) * page
        except OSError:  # it ended, or is somebody else's
            continue
    return total


@contextlib.contextmanager
def store() -> Iterator[str]:
    """Run an S3 store on the loopback; give its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def upload(place: Path, env: dict[str, str]) -> None:
    os.environ.update({key: env[key] for key in (*AWS, "AWS_ENDPOINT_URL")})
    import s3fs

    fs = s3fs.S3FileSystem()
    if not fs.exists(BUCKET):
        fs.mkdir(BUCKET)
    fs.put(str(place / "files"), f"{BUCKET}/{place.name}", recursive=True)


if __name__ == "__main__":
    main()
