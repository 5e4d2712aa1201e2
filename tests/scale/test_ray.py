"""On Ray: all rows once, whatever is killed; and a cluster that cannot help is said at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from ma_agiqa.errors import UsageError
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.files import sha256
from ma_agiqa.scale import engines
from support import many_pictures as make
from support.command_line import MAIN, save_model

pytest.importorskip("ray", reason="needs the extra `ray`")

KILLER = b"KILLER"
HOOK = f"""
import os
from ma_agiqa import images

original = images.decode

def decode(data, **options):
    if {KILLER!r} in data:
        os._exit(7)
    return original(data, **options)

images.decode = decode
"""


def actors() -> list[int]:
    """Return the processes of actors that score; Ray names them so."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::Map" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
        except OSError:  # it ended
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds actors by Linux's list of processes")
def test_all_rows_once_though_workers_die(tmp_path: Path) -> None:
    """One picture ends its worker whenever it is decoded; a worker is killed from outside too."""
    model = save_model(tmp_path / "tiny", seed=0)
    count = 300
    source = make.folder(tmp_path / "in", make.pngs(count))
    (source / "killer.png").write_bytes(make.png(0) + KILLER)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    paths = os.pathsep.join([str(tmp_path / "hook"), *sys.path])
    out = tmp_path / "out"
    killed: list[int] = []

    def kill() -> None:
        while not list(out.glob("_work/[0-9]*.parquet")):
            time.sleep(0.05)
        killed.extend(actors()[:1])
        for process in killed:
            os.kill(process, signal.SIGKILL)

    watch = threading.Thread(target=kill, daemon=True)
    watch.start()
    words = ["--engine", "ray", "--ray-workers", "1", "--no-isolate", "--model", str(model)]
    done = subprocess.run(
        [*MAIN, "score-many", str(source), "--out", str(out), "--device", "cpu", *words],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 1, done.stderr
    assert killed, "no worker was killed: nothing was tested"
    assert f"{count + 1} images: {count} scored" in done.stderr
    rows = [row for file in out.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    assert Counter(row["id"] for row in rows) == Counter(str(path) for path in source.iterdir())
    (bad,) = [row for row in rows if row["error"] is not None]
    assert bad["id"].endswith("killer.png")
    assert "makes the process that scores it end" in bad["error"]


def test_a_cluster_that_does_not_answer_is_said_within_seconds() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        started = time.monotonic()
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            with pytest.raises(UsageError, match="no Ray cluster answers"):
                engines.start(address, 1, gpus=0)
        assert time.monotonic() - started < 15


BUSY = """
import ray, sys, time
ray.init(
    num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1"
)

@ray.remote(num_cpus=1)
class Holder:
    def ready(self):
        return True

holder = Holder.remote()
ray.get(holder.ready.remote())
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


def test_a_cluster_without_a_free_core_is_said_and_does_not_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "FREE_SECONDS", 2.0)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else each side wants the other's token
    cluster = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert cluster.stdout is not None
        address = next(line.strip() for line in cluster.stdout if ":" in line)
        with pytest.raises(UsageError, match="has no free CPU: all 1 are taken"):
            engines.start(address, 1, gpus=0)
    finally:
        cluster.communicate(timeout=60)


def test_one_store_is_filled_by_several_workers(tmp_path: Path) -> None:
    source = make.folder(tmp_path / "in", make.pngs(7))
    (source / "bad.png").write_bytes(b"no picture")
    words = ["extract", str(source), "--lmm", "handcrafted", "--device", "cpu", "--store"]
    ray = ["--engine", "ray", "--ray-workers", "2", "--shard-size", "3"]
    done = [
        subprocess.run([*MAIN, *words, str(tmp_path / store), *extra], capture_output=True)
        for store, extra in (("here", []), ("ray", ray))
    ]
    for each in done:
        assert each.returncode == 1, each.stderr
        assert b"7 extracted, 0 already there, 1 failed" in each.stderr
        assert b"bad.png" in each.stdout
    here, there = (FeatureStore.open(tmp_path / store) for store in ("here", "ray"))
    keys = [sha256(path) for path in source.iterdir() if path.name != "bad.png"]
    assert torch.equal(here.get(keys), there.get(keys))
