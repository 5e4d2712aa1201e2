"""How the service holds up: throughput beside `score`, overload, hostile uploads.

    python benchmarks/serve.py [--images 400] [--overload 60] [--hostile 1000] [--out FILE]

One run, in this order, on the same cores, with 512 x 512 JPEGs made from the sample pictures:

    offline    `Scorer.score` over files; what the machine can do
    serve      64 clients at once, one image a request: images/s, latency, and the share of it that
               an image waited
    overload   as many clients as make ten times the queue, for a minute: what is refused, memory,
               health, and whether every score is that of `score` for the same bytes
    hostile    damaged files and junk, health asked all the while

The clients are on the same cores and take their share: those of `serve` send requests that were
made beforehand, since a client on another machine would cost the service nothing. Scores are
compared to the last bit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
from machine import keep
from score import pick_images

import ma_agiqa
from ma_agiqa.provenance import environment

CLIENTS = 64
QUEUE = 64
PICTURES = 15  # of the samples, each many times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400, help="for the two throughputs")
    parser.add_argument("--overload", type=float, default=60.0, help="seconds")
    parser.add_argument("--hostile", type=int, default=1000, help="uploads")
    parser.add_argument("--no-isolate", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    scorer = ma_agiqa.load("compact", device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        paths = pick_images(None, options.images, Path(scratch))
        pictures = [path.read_bytes() for path in paths[:PICTURES]]
        offline = [offline_rate(scorer, paths) for _ in range(3)]
    wanted = [scorer(data).score for data in pictures]
    del scorer
    with service(options.no_isolate) as (address, process, log):
        served = asyncio.run(serve(address, pictures, wanted, options.images))
        overloaded = asyncio.run(overload(address, process, pictures, wanted, options.overload))
        hostile = asyncio.run(attack(address, pictures, options.hostile))
    best = statistics.median(offline)
    report = {
        "what": "serve",
        "command": "python " + " ".join(sys.argv),
        **dataclasses.asdict(environment()),
        "clients": CLIENTS,
        "queue": QUEUE,
        "isolated": not options.no_isolate,
        "offline_images_per_second": [round(rate, 2) for rate in offline],
        "serve": served,
        "share_of_offline": round(served["images_per_second"] / best, 3),
        "overload": overloaded,
        "broken_connections": BROKEN[0],
        "hostile": {**hostile, "tracebacks": "".join(log).count("Traceback")},
    }
    keep(report, "serve_compact", options.out)


def offline_rate(scorer: ma_agiqa.Scorer, paths: list[Path]) -> float:
    started = time.perf_counter()
    assert all(result.error is None for result in scorer.score(paths))
    return len(paths) / (time.perf_counter() - started)


@contextlib.contextmanager
def service(no_isolate: bool) -> Iterator[tuple[str, subprocess.Popen[str], list[str]]]:
    words = ["serve", "--port", "0", "--device", "cpu", "--queue", str(QUEUE)]
    process = subprocess.Popen(
        [sys.executable, "-m", "ma_agiqa", *words, *(["--no-isolate"] if no_isolate else [])],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    address = re.search(r"http://\S+", line)
    assert address is not None, line
    log: list[str] = []
    # What it logs has to be read, or it would wait for that.
    thread = threading.Thread(target=log.extend, args=[process.stderr], daemon=True)
    thread.start()
    try:
        yield address[0], process, log
        process.terminate()
        process.wait(60)
    finally:
        process.kill()
        thread.join(5)


@contextlib.asynccontextmanager
async def clients(address: str, count: int) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        yield client


BROKEN = [0]
"""Requests whose connection broke; each was sent again."""


async def post(client: httpx.AsyncClient, data: bytes) -> httpx.Response:
    while True:
        try:
            return await client.post("/v1/score", files={"image": ("a.jpg", data)})
        except httpx.TransportError:
            BROKEN[0] += 1
            if BROKEN[0] > 100:
                raise


def figure(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def serve(
    address: str, pictures: list[bytes], wanted: list[float], count: int
) -> dict[str, Any]:
    latencies: list[float] = []
    wrong = 0
    requests = [as_request(data) for data in pictures]
    host, port = address.removeprefix("http://").split(":")
    async with clients(address, 1) as client:
        for data in pictures:  # not counted
            await post(client, data)
        before = (await client.get("/metrics")).text
        numbers = iter(range(count))

        async def one_client() -> None:
            nonlocal wrong
            reader, writer = await asyncio.open_connection(host, int(port))
            for number in numbers:
                started = time.perf_counter()
                writer.write(requests[number % len(pictures)])
                status, body = await answer(reader)
                latencies.append(time.perf_counter() - started)
                row = json.loads(body)["results"][0] if status == 200 else {"score": None}
                wrong += row["score"] != wanted[number % len(pictures)]
            writer.close()

        started = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(CLIENTS)))
        seconds = time.perf_counter() - started
        after = (await client.get("/metrics")).text
    waited = figure(after, "ma_agiqa_wait_seconds_sum") - figure(
        before, "ma_agiqa_wait_seconds_sum"
    )
    latencies.sort()
    return {
        "images": count,
        "images_per_second": round(count / seconds, 2),
        "latency_p50": round(latencies[len(latencies) // 2], 3),
        "latency_p95": round(latencies[int(0.95 * len(latencies))], 3),
        "waiting_share": round(waited / sum(latencies), 3),
        "wrong_scores": wrong,
    }


def as_request(image: bytes) -> bytes:
    """Return all that a client sends for an image, made once: as httpx it takes 6 ms each time."""
    part = b'Content-Disposition: form-data; name="image"; filename="a.jpg"'
    body = b"--part\r\n" + part + b"\r\nContent-Type: image/jpeg\r\n\r\n" + image
    body += b"\r\n--part--\r\n"
    head = f"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: multipart/form-data; boundary=part\r\n\r\n" + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = re.search(r"^content-length: (\d+)", head, re.MULTILINE | re.IGNORECASE)
    assert length is not None, head
    return int(head.split()[1]), await reader.readexactly(int(length[1]))


async def overload(
    address: str,
    process: subprocess.Popen[str],
    pictures: list[bytes],
    wanted: list[float],
    seconds: float,
) -> dict[str, Any]:
    statuses: Counter[int] = Counter()
    wrong, unhealthy, peak = 0, 0, 0
    until = time.perf_counter() + seconds
    async with clients(address, 10 * QUEUE + 1) as client:

        async def one_client(number: int) -> None:
            nonlocal wrong
            while time.perf_counter() < until:
                reply = await post(client, pictures[number % len(pictures)])
                statuses[reply.status_code] += 1
                if reply.status_code == 200:
                    row = reply.json()["results"][0]
                    wrong += row["score"] != wanted[number % len(pictures)]
                elif reply.status_code == 429:
                    await asyncio.sleep(float(reply.headers["retry-after"]))

        async def watch() -> None:
            nonlocal unhealthy, peak
            while time.perf_counter() < until:
                unhealthy += (await client.get("/v2/health/live")).status_code != 200
                peak = max(peak, memory(process.pid))
                await asyncio.sleep(1)

        await asyncio.gather(watch(), *(one_client(number) for number in range(10 * QUEUE)))
    return {
        "clients": 10 * QUEUE,
        "seconds": seconds,
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
        "wrong_scores": wrong,
        "health_not_green": unhealthy,
        "memory_mib": round(peak / 2**20),
    }


def memory(parent: int) -> int:
    """Return the resident bytes of a process and its children, shared pages counted once each."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            text = status.read_text()
            own, above = (
                re.search(rf"^{key}:\s+(\d+)", text, re.MULTILINE) for key in ("Pid", "PPid")
            )
            if own and above and parent in (int(own[1]), int(above[1])):
                resident = re.search(r"^VmRSS:\s+(\d+)", text, re.MULTILINE)
                total += 1024 * int(resident[1]) if resident else 0
    return total


async def attack(address: str, pictures: list[bytes], count: int) -> dict[str, Any]:
    chance = random.Random(0)
    statuses: Counter[int] = Counter()
    unhealthy = 0
    async with clients(address, 16) as client:
        numbers = iter(range(count))

        async def one_client() -> None:
            nonlocal unhealthy
            for number in numbers:
                reply = await post(client, damaged(pictures[number % len(pictures)], chance))
                statuses[reply.status_code] += 1
                if number % 10 == 0:
                    unhealthy += (await client.get("/v2/health/ready")).status_code != 200

        await asyncio.gather(*(one_client() for _ in range(16)))
    return {
        "uploads": count,
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
        "health_not_green": unhealthy,
    }


def damaged(data: bytes, chance: random.Random) -> bytes:
    kind = chance.randrange(5)
    if kind == 0:
        return data[: chance.randrange(len(data))]
    if kind == 1:
        return chance.randbytes(chance.randrange(1, 5000))
    changed = bytearray(data)
    start = 0 if kind == 2 else 20
    for _ in range(1 if kind == 3 else 40):
        changed[chance.randrange(start, 700 if kind == 2 else len(changed))] = chance.randrange(256)
    return bytes(changed)


if __name__ == "__main__":
    main()
