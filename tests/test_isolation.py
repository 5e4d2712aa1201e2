"""Decoding in child processes: the same pixels, and no image takes the run down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ma_agiqa.errors import ImageError
from ma_agiqa.images import Limits, decode
from ma_agiqa.isolation import IsolatedDecoder
from ma_agiqa.metadata import generation_of
from support.command_line import score
from support.encoding import encoded

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def test_pixels_are_those_of_decoding_here() -> None:
    with IsolatedDecoder(1) as isolated:
        for data in (encoded(PIXELS), encoded(PIXELS, "JPEG"), encoded(PIXELS, "WebP")):
            found = isolated(data)
            np.testing.assert_array_equal(found, decode(data))
            assert found.flags.c_contiguous


def test_an_error_is_that_of_decoding_here_and_names_the_image() -> None:
    data = encoded(PIXELS, "JPEG")[:-300]
    with IsolatedDecoder(1) as isolated, pytest.raises(ImageError) as error:
        isolated(data, name="a.jpg")
    with pytest.raises(ImageError) as here:
        decode(data, name="a.jpg")
    assert str(error.value) == str(here.value)


def test_limits_and_profiles_are_passed_on() -> None:
    with (
        IsolatedDecoder(1) as isolated,
        pytest.raises(ImageError, match="56 x 40 pixels, over the limit of 100"),
    ):
        isolated(encoded(PIXELS), limits=Limits(max_pixels=100))


def test_a_child_that_is_killed_fails_one_image_and_the_next_one_gets_another() -> None:
    with IsolatedDecoder(1) as isolated:
        isolated(encoded(PIXELS))
        child = isolated._idle.get()
        assert child is not None
        os.kill(child.pid, signal.SIGSTOP)
        isolated._idle.put(child)
        killer = threading.Timer(0.5, child.send_signal, [signal.SIGSEGV])
        killer.start()
        # The signal is delivered to a stopped process once it is continued.
        threading.Timer(0.6, child.send_signal, [signal.SIGCONT]).start()
        with pytest.raises(ImageError, match=r"a\.png: makes its decoder crash \(SIGSEGV\)"):
            isolated(encoded(PIXELS), name="a.png")
        np.testing.assert_array_equal(isolated(encoded(PIXELS)), PIXELS)


def test_a_decoder_that_spins_is_stopped() -> None:
    with IsolatedDecoder(1, seconds=60) as isolated:
        isolated(encoded(PIXELS))
        child = isolated._idle.get()
        assert child is not None
        os.kill(child.pid, signal.SIGSTOP)
        isolated._idle.put(child)
        isolated.seconds = 0.3
        started = time.monotonic()
        with pytest.raises(ImageError, match=r"takes longer than 0\.3 s to decode"):
            isolated(encoded(PIXELS))
        assert time.monotonic() - started < 20
        isolated.seconds = 60
        np.testing.assert_array_equal(isolated(encoded(PIXELS)), PIXELS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a limit of address space")
def test_memory_beyond_the_limit_is_an_error_of_that_image() -> None:
    large = encoded(np.zeros((9000, 9000, 3), np.uint8))
    with (
        IsolatedDecoder(1, memory=700 * 2**20) as isolated,
        pytest.raises(ImageError, match="not enough memory to decode it"),
    ):
        isolated(large)


def test_threads_share_the_children() -> None:
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (33, 35, 3), dtype=np.uint8) for _ in range(12)]
    with IsolatedDecoder(2) as isolated, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(isolated, map(encoded, pictures)))
    for one, picture in zip(found, pictures, strict=True):
        np.testing.assert_array_equal(one, picture)


def test_closing_ends_the_children() -> None:
    with IsolatedDecoder(1) as isolated:
        isolated(encoded(PIXELS))
        child = isolated._idle.get()
        isolated._idle.put(child)
    assert isinstance(child, subprocess.Popen)
    assert child.returncode == 0


def test_scores_are_the_same_with_it(pictures: Path, tiny_compact: Path) -> None:
    (pictures / "bad.jpg").write_bytes(encoded(PIXELS, "JPEG")[:400])
    plain, isolated = (
        score(str(pictures), *options, "--format", "jsonl", model=tiny_compact)
        for options in ([], ["--isolate"])
    )
    assert plain.exit_code == isolated.exit_code == 1
    assert plain.stdout == isolated.stdout
    assert plain.stdout.count("\n") >= 2


def test_what_a_file_says_of_its_generation_is_read_in_the_child() -> None:
    info = PngInfo()
    info.add_text("parameters", "a fox\nSteps: 5, Seed: 42")
    file = BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG", pnginfo=info)
    with IsolatedDecoder(1) as isolated:
        assert isolated.generation_of(file.getvalue()) == generation_of(file.getvalue())
        assert isolated.generation_of(file.getvalue())["seed"] == "42"
        child = isolated._idle.get()
        assert child is not None
        os.kill(child.pid, signal.SIGSTOP)
        isolated._idle.put(child)
        threading.Timer(0.5, child.send_signal, [signal.SIGKILL]).start()
        assert set(isolated.generation_of(file.getvalue()).values()) == {None}


def test_a_user_with_no_wide_pipes_left_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with IsolatedDecoder(1) as isolated:
        assert isolated(encoded(PIXELS)).shape == PIXELS.shape
