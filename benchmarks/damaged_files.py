"""How many damaged files are decoded to other pixels in silence, and whether sound ones are read.

    python benchmarks/damaged_files.py --picture PICTURE [--sound FOLDER ...] [--out FILE]

One picture in twelve encodings, each damaged in 44 ways: cuts, one and forty flipped bits, changed
bytes of the header, 200 zeroed bytes, a random tail, half with the last two bytes. `silent` counts
files that decode to other pixels than the sound one; `silent_before` is the same without heeding
what libjpeg says and what WebP data leave over. Of the JPEGs in the folders, and of their copies as
WebP, all should be read.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from machine import keep
from PIL import Image

from ma_agiqa import images
from ma_agiqa.errors import MAAGIQAError
from ma_agiqa.provenance import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--sound", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    heeded = dict(images._COMPLAINTS)
    silent = decode_all(options.picture)
    images._COMPLAINTS.clear()
    before = decode_all(options.picture)
    images._COMPLAINTS.update(heeded)
    report = {
        "what": "damaged files",
        "command": "python " + " ".join(sys.argv),
        **dataclasses.asdict(environment()),
        "files": sum(sum(outcomes.values()) for outcomes in silent.values()),
        "silent": sum(outcomes["other pixels"] for outcomes in silent.values()),
        "silent_before": sum(outcomes["other pixels"] for outcomes in before.values()),
        "by_encoding": silent,
        "by_encoding_before": before,
        "sound": read_sound(options.sound),
    }
    keep(report, "damaged-files", options.out)


def decode_all(picture: Path) -> dict[str, Counter[str]]:
    chance = random.Random(1)
    found = {}
    for kind, data in encodings(picture).items():
        wanted, outcomes = images.decode(data), Counter[str]()
        for damaged in damages(data, chance):
            try:
                pixels = images.decode(damaged)
            except MAAGIQAError:
                outcomes["error"] += 1
                continue
            outcomes["same" if np.array_equal(pixels, wanted) else "other pixels"] += 1
        found[kind] = outcomes
    return found


def encodings(picture: Path) -> dict[str, bytes]:
    image = Image.open(picture).convert("RGB")

    def encoded(kind: str, source: Image.Image = image, **options: object) -> bytes:
        file = io.BytesIO()
        source.save(file, kind, **options)
        return file.getvalue()

    return {
        "jpeg": encoded("JPEG", quality=90),
        "progressive jpeg": encoded("JPEG", quality=85, progressive=True),
        "png": encoded("PNG"),
        "webp": encoded("WEBP", quality=85),
        "lossless webp": encoded("WEBP", lossless=True),
        "avif": encoded("AVIF"),
        "gif": encoded("GIF", image.quantize(256)),
        "bmp": encoded("BMP"),
        "tiff": encoded("TIFF"),
        "lzw tiff": encoded("TIFF", compression="tiff_lzw"),
        "deflate tiff": encoded("TIFF", compression="tiff_adobe_deflate"),
        "jpeg tiff": encoded("TIFF", compression="jpeg"),
    }


def damages(data: bytes, chance: random.Random) -> Iterator[bytes]:
    size = len(data)
    yield from (data[: size * part // 20] for part in range(1, 20))
    yield from (data[:-last] for last in range(1, 5))
    for flips, start, times in ((1, 0, 6), (40, 200, 5)):
        for _ in range(times):
            changed = bytearray(data)
            for _ in range(flips):
                bit = chance.randrange(8 * start, 8 * size)
                changed[bit // 8] ^= 1 << bit % 8
            yield bytes(changed)
    for _ in range(4):
        changed = bytearray(data)
        changed[chance.randrange(4, 60)] = chance.randrange(256)
        yield bytes(changed)
    for _ in range(3):
        start = chance.randrange(300, size - 300)
        yield data[:start] + bytes(200) + data[start + 200 :]
    for _ in range(2):
        start = chance.randrange(size // 2, size)
        yield data[:start] + chance.randbytes(size - start)
    yield data[: size // 2] + data[-2:]


def read_sound(folders: list[Path]) -> dict[str, float]:
    """Count the sound files that are refused, JPEGs also as WebP, and the time of asking."""
    paths = [path for folder in folders for path in sorted(folder.iterdir())]
    files = [(images.format_of(data), data) for data in map(Path.read_bytes, paths)]
    found: dict[str, float] = {}
    for kind, complain in images._COMPLAINTS.items():
        asked, refused, seconds = 0, 0, 0.0
        for stored, data in files:
            if stored == kind or (stored, kind) == ("JPEG", "WebP"):
                sound = data if stored == kind else as_webp(data)
                started = time.process_time()
                refused += complain(sound) is not None
                seconds += time.process_time() - started
                asked += 1
        found |= {f"{kind}_files": asked, f"{kind}_refused": refused}
        found[f"{kind}_milliseconds_each"] = round(1000 * seconds / max(1, asked), 2)
    return found


def as_webp(jpeg: bytes) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).convert("RGB").save(file, "WEBP", quality=80)
    return file.getvalue()


if __name__ == "__main__":
    main()
