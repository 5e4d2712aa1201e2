"""Reading in child processes: an image that makes its decoder crash or spin costs one row.

    with IsolatedDecoder(4) as decode:
        rgb = decode(data, name="picture.png")

A child is `python -m ma_agiqa.isolation`: it takes one image at a time from its stdin, decodes it
under a limit of memory, and gives the pixels on its stdout. Whoever waits too long for them kills
it. A child that died is started again for the next image.

What this file does not do: keep a child from reading files or the network. It runs as the same
user; the limits are against damage and waste, not against a decoder that was taken over.

On a system without `resource` (Windows) there is no limit of memory, only of time.
"""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Any

import numpy as np

from ma_agiqa.errors import ImageError
from ma_agiqa.images import DEFAULT_LIMITS, Limits, decode
from ma_agiqa.metadata import KEYS, Generation, generation_of
from ma_agiqa.types import RGB

DEFAULT_SECONDS = 30.0
DEFAULT_MEMORY = 3 * 2**30
"""Bytes of address space; 120 megapixels take 1.3 GiB, Python and its libraries 0.5."""


class IsolatedDecoder:
    """Decode as `images.decode` does, each image in one of some child processes.

    Several threads may share it; each waits for a child that is free.

    Args:
        children: how many processes decode side by side; each starts when first needed.
        seconds: longest time for one image.
        memory: bytes that a child may take.
    """

    def __init__(
        self, children: int, *, seconds: float = DEFAULT_SECONDS, memory: int = DEFAULT_MEMORY
    ) -> None:
        if children < 1 or not seconds > 0 or memory < 1:
            raise ValueError(f"limits must be positive, got {children=} {seconds=} {memory=}")
        self.seconds, self.memory = seconds, memory
        self._children = children
        self._idle: queue.LifoQueue[subprocess.Popen[bytes] | None] = queue.LifoQueue()
        for _ in range(children):
            self._idle.put(None)

    def __call__(
        self,
        data: bytes,
        *,
        name: str = "image given as bytes",
        limits: Limits = DEFAULT_LIMITS,
        colour_profile: bool = True,
    ) -> RGB:
        """Return the encoded image `data` as contiguous uint8 RGB of shape (H, W, 3).

        Raises:
            ImageError: as of `images.decode`; or the child died of the image, or took too long.
        """
        request = {
            "limits": [limits.max_bytes, limits.max_pixels],
            "colour_profile": colour_profile,
        }
        answer, pixels = self._ask(request, data, name=name)
        return np.frombuffer(pixels, np.uint8).reshape(answer["size"])

    def generation_of(self, data: bytes) -> Generation:
        """Return what `metadata.generation_of` does; nothing where the child died of the image."""
        try:
            answer, _ = self._ask({"generation": True}, data, name="")
        except ImageError:
            return dict.fromkeys(KEYS)
        generation: Generation = answer["generation"]
        return generation

    def close(self) -> None:
        """End the children, once they are idle."""
        for _ in range(self._children):
            child = self._idle.get()
            if child is not None:
                _end(child)

    def __enter__(self) -> IsolatedDecoder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        # No thread pools: each would ask for address space.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        child = subprocess.Popen(
            [sys.executable, "-m", "ma_agiqa.isolation", str(self.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libtiff writes there, without the name of the image
            env={**os.environ, **threads},
        )
        for pipe in (child.stdin, child.stdout):
            _widen(pipe)
        return child

    def _ask(
        self, request: dict[str, Any], data: bytes, *, name: str
    ) -> tuple[dict[str, Any], bytes]:
        """Return what a child that is free answers, and the pixels."""
        child = self._idle.get()
        try:
            if child is None or child.poll() is not None:
                child = self._start()
            return self._answer(child, {"bytes": len(data), **request}, data, name=name)
        finally:
            self._idle.put(child)

    def _answer(
        self, child: subprocess.Popen[bytes], request: dict[str, Any], data: bytes, *, name: str
    ) -> tuple[dict[str, Any], bytes]:
        assert child.stdin is not None
        assert child.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(self.seconds, stop)
        timer.start()
        try:
            with suppress(BrokenPipeError):  # it died; what it died of is told below
                child.stdin.write(json.dumps(request).encode() + b"\n" + data)
                child.stdin.flush()
            line = child.stdout.readline()
            answer = json.loads(line) if line.endswith(b"\n") else None
            if answer is not None and "error" in answer:
                raise ImageError(answer["error"], path=name, remedy=answer["remedy"])
            pixels = b"" if answer is None else child.stdout.read(math.prod(answer["size"]))
        finally:
            timer.cancel()
        if answer is not None and len(pixels) == math.prod(answer["size"]):
            return answer, pixels
        _end(child)
        reason = (
            f"takes longer than {self.seconds:g} s to decode" if late.is_set() else _end_of(child)
        )
        raise ImageError(reason, path=name, remedy="make or fetch it again")


def _widen(pipe: IO[bytes] | None) -> None:
    """Have a pipe hold a megabyte, where the system has so much left for this user."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        assert pipe is not None
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 2**20)


def _end_of(child: subprocess.Popen[bytes]) -> str:
    status = child.returncode
    if status < 0:
        return f"makes its decoder crash ({signal.Signals(-status).name})"
    return f"makes its decoder end with status {status}"


def _end(child: subprocess.Popen[bytes]) -> None:
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):  # what was not written any more
            if pipe is not None:
                pipe.close()
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=1)  # it ends with its stdin
        return
    child.kill()
    child.wait()


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Decode what is asked for until there is nothing more."""
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["bytes"])
        if "generation" in request:
            said = {"size": [0], "generation": generation_of(data)}
            answers.write(json.dumps(said).encode() + b"\n")
            answers.flush()
            continue
        try:
            rgb = decode(
                data,
                name="",
                limits=Limits(*request["limits"]),
                colour_profile=request["colour_profile"],
            )
        except ImageError as error:
            answer: dict[str, Any] = {"error": error.reason, "remedy": error.remedy}
            answers.write(json.dumps(answer).encode() + b"\n")
        else:
            answers.write(json.dumps({"size": rgb.shape}).encode() + b"\n")
            answers.write(rgb.data)
        answers.flush()


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:
        return
    with suppress(ValueError, OSError):  # a lower limit stands already
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    _limit_memory(int(sys.argv[1]))
    _serve(sys.stdin.buffer, sys.stdout.buffer)
