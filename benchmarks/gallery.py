"""Does a gallery of 10,000 pictures open at once and scroll smoothly? Measured in a real browser.

    python benchmarks/gallery.py --images FOLDER [--count 10000] [--distinct 300] [--out FOLDER]

`--distinct` pictures of the folder are scored with maps, and their rows repeated under other
names until there are `--count`. Debian's Chromium without a window opens the file from disk.
Measured: the size of the file; from the begin of the navigation, the first picture on the screen
and the end of loading; while scrolling by a third of the window in every frame, the time between
frames (60 a second is 16.7 ms, more than 50 ms is seen as a jerk); how long until pictures are
shown after a jump to the middle; a search; the browser's memory for the page's script. The middle
of `--repeats` fresh browsers is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import keep

import ma_agiqa
from ma_agiqa.gallery.page import shown, thumbnail, write_page
from ma_agiqa.images import IMAGE_SUFFIXES, read_image
from ma_agiqa.provenance import environment
from ma_agiqa.types import SHOWN, Row

JERK_MS = 50.0

FIRST = """
const done = arguments[arguments.length - 1];
(function wait() {
  const one = document.querySelector('.card img');
  if (one && one.complete && one.naturalWidth) requestAnimationFrame(() => done(performance.now()));
  else requestAnimationFrame(wait);
})();
"""

SCROLL = """
const [frames, done] = [arguments[0], arguments[arguments.length - 1]];
const times = []; let last = performance.now(), blank = 0;
window.scrollTo(0, 0);
requestAnimationFrame(function step(now) {
  times.push(now - last); last = now;
  blank += [...document.querySelectorAll('.card img')]
    .filter(i => !i.complete || !i.naturalWidth).length;
  window.scrollBy(0, innerHeight / 3);
  if (times.length < frames) requestAnimationFrame(step);
  else done([times.slice(1), blank / frames]);
});
"""

JUMP = """
const done = arguments[arguments.length - 1], begun = performance.now();
window.scrollTo(0, document.body.scrollHeight / 2);
(function wait() {
  const seen = at => at.bottom > 0 && at.top < innerHeight;
  const all = [...document.querySelectorAll('.card img')]
    .filter(i => seen(i.closest('.card').getBoundingClientRect()));
  if (all.length && all.every(i => i.complete && i.naturalWidth))
    done(performance.now() - begun);
  else requestAnimationFrame(wait);
})();
"""

SEARCH = """
const box = document.getElementById('search'), begun = performance.now();
box.value = arguments[0]; refresh(); return performance.now() - begun;
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--distinct", type=int, default=300)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for the record")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "gallery.html"
        seconds = make(page, options)
        opened = [look(page, options.frames) for _ in range(options.repeats)]
        record = {
            "what": "gallery",
            "command": " ".join(["python", *sys.argv]),
            **dataclasses.asdict(environment()),
            "pictures": options.count,
            "distinct": options.distinct,
            "file_mib": page.stat().st_size / 2**20,
            "seconds_to_score_and_draw_each_distinct": seconds,
            **{key: statistics.median(one[key] for one in opened) for key in opened[0]},
        }
    keep(record, "gallery", options.out)


def make(page: Path, options: argparse.Namespace) -> float:
    """Write a gallery of `count` pictures; return how long each distinct one took."""
    files = sorted(p for p in options.images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    files = files[:: max(1, len(files) // options.distinct)][: options.distinct]
    scorer = ma_agiqa.load("compact")
    started = time.perf_counter()
    rows: list[Row] = []
    for file, score in zip(files, scorer.score(files, explain=True), strict=True):
        row = score.to_row()
        row[SHOWN] = shown(score, thumbnail=thumbnail(read_image(file)))
        rows.append(row)
    seconds = (time.perf_counter() - started) / len(files)
    copies = -(-options.count // len(rows))
    many = [
        {**row, "path": f"{copy:03d}/{Path(row['path']).name}"}
        for copy in range(copies)
        for row in rows
    ][: options.count]
    write_page(page, lambda: many, title=f"{options.count} pictures")
    return seconds


def look(page: Path, frames: int) -> dict[str, float]:
    """Open the page in a fresh browser; return what a person would wait for."""
    from selenium import webdriver

    made = webdriver.ChromeOptions()
    made.binary_location = shutil.which("chromium") or ""
    made.page_load_strategy = "none"
    for word in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1280,900"):
        made.add_argument(f"--{word}")
    with tempfile.TemporaryDirectory() as profile:
        made.add_argument(f"--user-data-dir={profile}")
        window: Any = webdriver.Chrome(made, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            window.set_script_timeout(120)
            window.get(page.as_uri())
            while not window.execute_script("return !!document.querySelector('.card')"):
                pass
            first = window.execute_async_script(FIRST)
            while window.execute_script("return document.readyState") != "complete":
                time.sleep(0.01)
            loaded = window.execute_script(
                "return performance.getEntriesByType('navigation')[0].loadEventEnd"
            )
            times, blank = window.execute_async_script(SCROLL, frames)
            return {
                "first_picture_ms": first,
                "loaded_ms": loaded,
                "frame_ms_median": statistics.median(times),
                "frame_ms_95th": sorted(times)[int(0.95 * len(times))],
                "frame_ms_most": max(times),
                "jerks": sum(one > JERK_MS for one in times),
                "frames": len(times),
                "pictures_not_yet_shown_in_a_frame": blank,
                "jump_to_the_middle_ms": window.execute_async_script(JUMP),
                "search_ms": window.execute_script(SEARCH, "glide"),
                "script_memory_mib": window.execute_script(
                    "return performance.memory.usedJSHeapSize"
                )
                / 2**20,
            }
        finally:
            window.quit()


if __name__ == "__main__":
    main()
