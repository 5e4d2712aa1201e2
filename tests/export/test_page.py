"""The exported page in a real browser gives the scores that Python gives, file for file."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ma_agiqa
from conftest import REPOSITORY
from export.conftest import guide
from support.browser import browser
from support.command_line import run

PACKAGE = "onnxruntime-web@1.30.0"
EXAMPLES = REPOSITORY / "examples/pictures"


@pytest.fixture(scope="session")
def runtime() -> Path:
    """The folder `dist` of onnxruntime-web, fetched once and kept beside other temporary files."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("no node and npm here")
    folder = Path(tempfile.gettempdir()) / f"ma-agiqa-{PACKAGE}"
    dist = folder / "node_modules/onnxruntime-web/dist"
    if not dist.is_dir():
        folder.mkdir(exist_ok=True)
        words = [npm, "install", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(
            [*words, PACKAGE], cwd=folder, capture_output=True, text=True, timeout=240
        )
        if done.returncode:
            pytest.skip(f"npm could not fetch {PACKAGE}: {done.stderr.strip()[:200]}")
    return dist


@pytest.fixture(scope="module")
def folder(quick_export: None, runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    *words, place, _, name = guide()[-1]  # of the guide: export --web --runtime PLACE --out NAME
    assert place == "node_modules/onnxruntime-web/dist"
    out = tmp_path_factory.mktemp("page") / name
    done = run(*words, runtime, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert f"python -m http.server --directory {out}" in done.stderr
    return out


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with browser(tmp_path_factory.mktemp("profile")) as window:
            window.get(f"http://127.0.0.1:{server.server_port}/")  # type: ignore[attr-defined]
            wait_for(window, "return document.body.dataset.state === 'ready'")
            yield window
        server.shutdown()


def wait_for(page: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 200).until(lambda window: window.execute_script(script))


def choose(page: Any, files: list[Path]) -> list[dict[str, Any]]:
    """Give files to the page and return its cards in their order."""
    page.execute_script("document.getElementById('clear').click()")
    page.find_element("id", "files").send_keys("\n".join(map(str, files)))
    judged = "document.querySelectorAll('#cards .number, #cards .error').length"
    wait_for(page, f"return {judged} === {len(files)}")
    found: list[dict[str, Any]] = page.execute_script(
        "return [...document.querySelectorAll('#cards li')].map(card => ({"
        "name: card.querySelector('h2').textContent, score: Number(card.dataset.score),"
        "percentile: Number(card.dataset.percentile),"
        "error: card.querySelector('.error')?.textContent}))"
    )
    return found


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures that take each way through preparing: cropped, reduced, enlarged, transparent."""
    folder = tmp_path_factory.mktemp("golden")
    lake = Image.open(EXAMPLES / "lake_0-clean.jpg").convert("RGB")
    spheres = Image.open(EXAMPLES / "spheres_0-clean.jpg").convert("RGB").resize((256, 320))
    lake.crop((0, 0, 333, 217)).save(folder / "odd.png")
    lake.resize((1300, 900)).save(folder / "reduced.png")
    lake.resize((48, 40)).save(folder / "small.png")
    lake.convert("L").save(folder / "grey.png")
    spheres.putalpha(Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (320, 1))))
    spheres.save(folder / "transparent.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    lake.resize((400, 300)).save(folder / "turned.png", exif=turned)
    noise = np.random.default_rng(0).integers(0, 256, (144, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return sorted(folder.iterdir())


def test_scores_from_file_to_number_are_those_of_python(
    page: Any, folder: Path, golden: list[Path]
) -> None:
    expected = {Path(one.path).name: one for one in ma_agiqa.load(folder).score(golden)}
    cards = choose(page, golden)
    assert {card["name"] for card in cards} == set(expected)
    for card in cards:
        # Decoding is lossless; a reduced picture may be rounded another way: 1e-4 was seen.
        assert card["score"] == pytest.approx(expected[card["name"]].score, abs=2e-3), card
        assert card["percentile"] == pytest.approx(expected[card["name"]].percentile, abs=0.2)
    scores = [card["score"] for card in cards]
    assert scores == sorted(scores, reverse=True)


def test_jpegs_differ_by_no_more_than_their_decoders(page: Any, folder: Path) -> None:
    files = sorted(EXAMPLES.glob("*.jpg"))[:3]
    expected = {Path(one.path).name: one.score for one in ma_agiqa.load(folder).score(files)}
    for card in choose(page, files):
        assert card["score"] == pytest.approx(expected[card["name"]], abs=0.1), card


def test_what_cannot_be_scored_is_a_card_that_says_why(
    page: Any, golden: list[Path], tmp_path: Path
) -> None:
    Image.new("RGB", (20, 40)).save(tmp_path / "tiny.png")
    Image.new("RGB", (60000, 33)).save(tmp_path / "long.png")
    (tmp_path / "text.png").write_text("no picture")
    cards = choose(page, [*sorted(tmp_path.iterdir()), golden[0]])
    assert cards[0]["error"] is None
    errors = {card["name"]: card["error"] for card in cards[1:]}
    assert "too elongated to judge" in errors["long.png"]
    assert "this browser cannot read it" in errors["text.png"]
    assert "20x40 pixels is too small to judge" in errors["tiny.png"]
    status = page.execute_script("return document.getElementById('status').textContent")
    assert status == "1 of 4 scored, 3 failed"


def test_it_works_by_keyboard(page: Any, golden: list[Path]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    choose(page, golden[:1])
    focused = set()
    for _ in range(4):
        ActionChains(page).send_keys(Keys.TAB).perform()
        focused.add(page.execute_script("return document.activeElement.id"))
    assert {"files", "clear"} <= focused
    page.find_element("id", "clear").send_keys(Keys.ENTER)
    assert page.execute_script("return document.querySelectorAll('#cards li').length") == 0


def test_nothing_but_its_own_files_is_asked_for(page: Any, folder: Path) -> None:
    names = page.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert all(name.startswith(("http://127.0.0.1", "blob:", "data:")) for name in names)
    assert [line for line in page.get_log("browser") if line["level"] == "SEVERE"] == []
    files = {path.name for path in folder.iterdir()}
    assert files == {
        *("config.json", "index.html", "model.onnx", "README.md"),
        *("ort-wasm-simd-threaded.wasm", "ort.wasm.bundle.min.mjs"),
    }
