"""`ma-agiqa serve` as a process, and its page in a real browser."""

from __future__ import annotations

import io
import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from ma_agiqa.errors import ModelError
from ma_agiqa.scorer import Scorer
from support.browser import browser
from support.command_line import run
from support.encoding import encoded
from support.service import start

PICTURE = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def address(tiny_compact: Path) -> Iterator[str]:
    child, address = start("--model", tiny_compact)
    yield address
    child.terminate()
    child.communicate(timeout=30)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to answer")
def test_it_scores_logs_and_ends_when_told(tiny_compact: Path) -> None:
    child, address = start("--model", tiny_compact)
    try:
        reply = httpx.post(f"{address}/v1/score", files={"image": ("a.png", PICTURE)}, timeout=60)
        assert reply.json()["results"][0]["path"] == "a.png"
    finally:
        child.send_signal(signal.SIGTERM)
        _, log = child.communicate(timeout=60)
    assert child.returncode == 0, log
    (line,) = log.splitlines()
    said = json.loads(line)
    assert (said["path"], said["status"], said["method"]) == ("/v1/score", 200, "POST")
    assert "Traceback" not in log


def test_a_client_that_stalls_is_told_and_let_go(tiny_compact: Path) -> None:
    child, address = start("--model", tiny_compact, "--timeout", "1")
    try:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as stalled:
            head = "POST /v1/score HTTP/1.1", f"Host: {host}", "Content-Type: application/json"
            stalled.sendall("\r\n".join([*head, "Content-Length: 100", "", "{"]).encode())
            reply = b"".join(iter(lambda: stalled.recv(4096), b""))  # to the end of the connection
        assert reply.startswith(b"HTTP/1.1 408")
        assert b"the body of the request did not come within 1 s" in reply
        assert httpx.get(f"{address}/health", timeout=30).is_success
    finally:
        child.terminate()
        child.communicate(timeout=60)


def test_wrong_use_is_one_line(tiny_compact: Path, tmp_path: Path, address: str) -> None:
    taken = address.rsplit(":", 1)[1]
    (tmp_path / "empty").write_text("\n")
    for words, reason in (
        (["--port", taken], "cannot listen there"),
        (["--api-key-file", tmp_path / "no"], "key cannot be read"),
        (["--api-key-file", tmp_path / "empty"], "holds no key"),
    ):
        result = run("serve", "--model", tiny_compact, "--device", "cpu", *words)
        assert result.exit_code == 2, result.output
        assert reason in result.stderr


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("CUDA error: no kernel\nmore of it"), "a plain image: CUDA error: no kernel"),
        (ModelError("is damaged", path="lmm/one.safetensors"), "lmm/one.safetensors: is damaged"),
    ],
)
def test_a_model_that_fails_at_once_is_told_as_itself(
    tiny_compact: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    """It was a traceback, and then a port that could not be listened at."""

    def score(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Scorer, "score", score)
    result = run("serve", "--model", tiny_compact, "--device", "cpu", "--port", "0")
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.endswith(told)


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 800)])
def test_the_page_scores_pictures(address: str, tmp_path: Path, width: int, height: int) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    files = []
    for number in range(3):
        path = tmp_path / f"p{number}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels // (number + 1)).save(path)
        files.append(str(path))
    (tmp_path / "bad.png").write_bytes(b"no image")
    with browser(tmp_path / "profile", width=width, height=height) as window:
        page: Any = window
        page.get(address)
        page.find_element("id", "files").send_keys("\n".join([*files, str(tmp_path / "bad.png")]))
        WebDriverWait(page, 60).until(
            lambda one: "3 of 4 scored, 1 failed" in one.find_element("id", "status").text
        )
        numbers = [float(e.text) for e in page.find_elements("css selector", ".number")]
        assert len(numbers) == 3
        page.execute_script(
            "const s = document.getElementById('sort'); s.value = 'best first';"
            "s.dispatchEvent(new Event('change')); document.getElementById('maps').click()"
        )
        ordered = [float(e.text) for e in page.find_elements("css selector", ".number")]
        assert ordered == sorted(numbers, reverse=True)
        assert page.find_element("css selector", ".frame canvas").is_displayed()
        overflow = "return document.documentElement.scrollWidth - window.innerWidth"
        assert page.execute_script(overflow) <= 0  # nothing sticks out, on a phone too
        unnamed = """return [...document.querySelectorAll('button, input, select, img')].filter(
            e => !(e.labels?.length || e.textContent.trim() || e.alt || e.ariaLabel)).length"""
        assert page.execute_script(unnamed) == 0
        severe = [line for line in page.get_log("browser") if line["level"] == "SEVERE"]
        assert all("415" in line["message"] for line in severe)  # the one that is no image
        shot = Image.open(io.BytesIO(page.get_screenshot_as_png()))
        assert shot.width >= min(width, 390)


def test_the_page_shows_the_status_of_an_answer_that_is_no_json(
    address: str, tmp_path: Path
) -> None:
    """A proxy before the service refuses a file in HTML; the page showed a parse error."""
    from selenium.webdriver.support.ui import WebDriverWait

    picture = tmp_path / "a.png"
    picture.write_bytes(PICTURE)
    with browser(tmp_path / "profile", width=800, height=800) as window:
        page: Any = window
        page.get(address)
        page.execute_script(
            "window.fetch = async () => new Response('<h1>Too large</h1>', {status: 413})"
        )
        page.find_element("id", "files").send_keys(str(picture))
        WebDriverWait(page, 60).until(lambda one: one.find_elements("css selector", ".error"))
        shown = page.find_element("css selector", ".error").text
        assert shown == "the server answered with status 413"
