"""The gallery in a real browser: it shows, sorts, filters, compares and asks no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ma_agiqa.gallery.page import shown, thumbnail, write_page
from ma_agiqa.types import SHOWN, Row, Score
from support.browser import browser

COUNT = 300


def row(number: int, folder: Path) -> Row:
    path = folder / f"picture-{number:03d}.png"
    rgb = np.full((48, 64, 3), (number * 7) % 256, np.uint8)
    if number < 4:
        Image.fromarray(rgb).save(path)
    failed = number == 299
    score = Score(
        path=str(path),
        score=None if failed else number / 60,
        percentile=None if failed else number / 3,
        low=0.0,
        high=5.0,
        model="tiny",
        error="is empty" if failed else None,
        interval=None if failed else (max(0, number / 60 - 0.5), min(5, number / 60 + 0.5)),
        contributions=None if failed else {"content": 1.0, "distortion": -0.5, "bias": 2.0},
        quality_map=None if failed else np.linspace(0, 5, 48, dtype=np.float32).reshape(6, 8),
    )
    small = None if failed else thumbnail(rgb)
    prompt = "a <b>red</b> fox" if number % 50 == 0 else "a hen"
    return {**score.to_row(), "prompt": prompt, SHOWN: shown(score, thumbnail=small)}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("gallery")
    rows = [row(number, folder) for number in range(COUNT)]
    write_page(folder / "gallery.html", lambda: rows, title="Test <gallery>")
    with browser(folder / "profile") as window:
        window.get((folder / "gallery.html").as_uri())  # type: ignore[attr-defined]
        yield window


@pytest.fixture(autouse=True)
def nothing_went_wrong(page: Any) -> Iterator[None]:
    page.execute_script("document.getElementById('large').close()")
    for name in ("from", "to", "search"):
        type_into(page, name, "")
    click(page, "#buckets [aria-pressed=true]")
    click(page, "#clear")
    status(page, "300 of 300 pictures")
    page.get_log("browser")
    yield
    severe = [line["message"] for line in page.get_log("browser") if line["level"] == "SEVERE"]
    assert all("ERR_FILE_NOT_FOUND" in message for message in severe)  # most files are not there


def type_into(page: Any, name: str, value: str) -> None:
    page.execute_script(
        "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('input'))",
        name,
        value,
    )


def wait_for(page: Any, script: str) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(page, 20).until(lambda window: window.execute_script(script))


def status(page: Any, text: str) -> None:
    wait_for(page, f"return document.getElementById('status').textContent.startsWith({text!r})")


def click(page: Any, css: str) -> None:
    page.execute_script("document.querySelector(arguments[0])?.click()", css)


def test_only_cards_near_the_window_exist_and_they_show_pictures(page: Any) -> None:
    status(page, "300 of 300 pictures")
    assert page.title == "Test <gallery>"
    drawn = page.execute_script("return document.querySelectorAll('.card').length")
    assert 10 < drawn < 150
    wait_for(
        page,
        "return [...document.querySelectorAll('.card img')].every(i => i.naturalWidth > 0)",
    )
    numbers = page.execute_script(
        "return [...document.querySelectorAll('.card')].sort((a, b) => a.offsetTop - b.offsetTop"
        " || a.offsetLeft - b.offsetLeft).slice(0, 3)"
        ".map(card => card.querySelector('.number').textContent)"
    )
    assert numbers == ["4.97", "4.95", "4.93"]
    page.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    wait_for(page, "return !!document.querySelector('.card[data-index=\"0\"]')")
    page.execute_script("window.scrollTo(0, 0)")


def test_a_range_words_and_buckets_filter(page: Any) -> None:
    type_into(page, "from", "1")
    type_into(page, "to", "2")
    status(page, "61 of 300")
    type_into(page, "search", "FOX red")
    status(page, "1 of 300")
    for name in ("from", "to", "search"):
        type_into(page, name, "")
    status(page, "300 of 300")
    click(page, "#b-failed")
    status(page, "1 of 300")
    click(page, "#b-failed")
    type_into(page, "low", "0.5")
    click(page, "#b-poor")
    status(page, "30 of 300")
    click(page, "#b-poor")


def test_the_large_view_shows_reasons_and_the_map_and_text_is_text(page: Any) -> None:
    type_into(page, "search", "picture-000")
    status(page, "1 of 300")
    click(page, ".card .open")
    wait_for(page, "return document.querySelector('.view img').naturalWidth === 64")  # the file
    text = page.execute_script("return document.querySelector('.view').innerText")
    assert "a <b>red</b> fox" in text
    assert "distortion" in text
    assert "80 % interval 0.00 to 0.50" in text
    assert "\N{MINUS SIGN}0.50" in text
    click(page, "#heat")
    wait_for(page, "return document.querySelector('.view .map').naturalWidth === 8")
    click(page, "#heat")


def test_a_picture_whose_file_is_gone_shows_its_thumbnail(page: Any) -> None:
    type_into(page, "search", "picture-100")
    status(page, "1 of 300")
    click(page, ".card .open")
    wait_for(page, "return document.querySelector('.view img').src.startsWith('data:image/webp')")


def test_two_selected_pictures_stand_side_by_side_and_go_into_lists(page: Any) -> None:
    page.execute_script(
        "window.saved = []; window.save = (name, content) => window.saved.push(content);"
    )
    boxes = "document.querySelectorAll('.card input')"
    page.execute_script(f"{boxes}[0].click(); {boxes}[1].click()")
    click(page, "#compare")
    assert page.execute_script("return document.querySelectorAll('.view').length") == 2
    page.execute_script("document.getElementById('large').close()")
    click(page, "#csv")
    click(page, "#script")
    table, script = page.execute_script("return window.saved")
    assert len(table.splitlines()) == 3
    assert table.startswith("path,score,percentile\n")
    assert script.count("mv -n -- '") == 2
    click(page, "#clear")
    assert page.execute_script("return document.getElementById('csv').disabled")


def test_keys_move_through_the_large_view(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    click(page, ".card[data-index='298'] .open")
    large = page.find_element("id", "large")
    large.send_keys(Keys.ARROW_RIGHT)
    wait_for(page, "return document.querySelector('.view h2').textContent.includes('297')")
    large.send_keys("s")
    wait_for(page, "return document.getElementById('status').textContent.includes('1 selected')")
    large.send_keys("s")
    large.send_keys(Keys.ESCAPE)
    wait_for(page, "return !document.getElementById('large').open")
