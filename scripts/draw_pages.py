"""Take the pictures of gallery, explained score and service page that the documents show.

    python scripts/draw_pages.py --out docs/images

Scores the sample pictures, opens the pages in Debian's Chromium without a window, and saves what it
shows as gallery.png, explain.jpg and page.png. Needs chromium, chromedriver and the extra `dev`.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from support.browser import browser  # noqa: E402
from support.service import start  # noqa: E402

SAMPLES = Path("examples/pictures")
PROGRAM = [sys.executable, "-m", "ma_agiqa"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw_gallery(folder, out)
        draw_page(folder, out)
    picture = SAMPLES / "lake_1-noise.jpg"
    subprocess.run([*PROGRAM, "explain", picture, "--out", out, "-q"], cwd=REPOSITORY, check=True)
    drawn = out / "lake_1-noise.png"
    Image.open(drawn).save(out / "explain.jpg", quality=90)  # few colours would spoil the map's
    drawn.unlink()


def draw_gallery(folder: Path, out: Path) -> None:
    page = REPOSITORY / "gallery.html"  # beside the samples, so that names are short
    words = ["gallery", SAMPLES, "--out", page, "--title", "Sample pictures", "-q"]
    try:
        subprocess.run([*PROGRAM, *words], cwd=REPOSITORY, check=True)
        with browser(folder / "gallery", width=1280, height=860) as window:
            view: Any = window
            view.get(page.as_uri())
            wait(
                view,
                "return [...document.querySelectorAll('.card img')].every(i => i.naturalWidth)",
            )
            keep(view, out / "gallery.png")
    finally:
        page.unlink(missing_ok=True)


def draw_page(folder: Path, out: Path) -> None:
    service, address = start()
    try:
        names = ["lake_0-clean.jpg", "lake_1-noise.jpg", "lake_2-heavy-noise.jpg"]
        files = "\n".join(str((REPOSITORY / SAMPLES / name).absolute()) for name in names)
        with browser(folder / "page", width=1000, height=860) as window:
            view: Any = window
            view.get(address)
            view.find_element("id", "files").send_keys(files)
            wait(view, "return document.getElementById('status').textContent.startsWith('3 of 3')")
            view.execute_script("document.getElementById('maps').click()")
            keep(view, out / "page.png")
    finally:
        service.terminate()
        service.communicate()


def wait(view: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(view, 60).until(lambda one: one.execute_script(script))


def keep(view: Any, path: Path) -> None:
    save(Image.open(io.BytesIO(view.get_screenshot_as_png())), path)


def save(image: Image.Image, path: Path) -> None:
    """Save with few colours: a picture of a page, not of what it shows."""
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
