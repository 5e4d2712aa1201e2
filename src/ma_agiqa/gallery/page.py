"""The gallery: one HTML file that shows pictures with their scores, offline, by a double click.

The file holds the rows as JSON, then the script, then thumbnails and maps in chunks: the first
view is there before the browser has read them all. Nothing in it asks the network. The large view
shows the picture's own file where that lies in its old place, else the thumbnail.
"""

from __future__ import annotations

import io
import json
import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from ma_agiqa.files import atomic_path
from ma_agiqa.gallery.picture import colours, grey, map_ends, told
from ma_agiqa.metadata import KEYS
from ma_agiqa.types import COVERAGE, INTERVAL, RGB, SHOWN, Row, Score

CHUNK = 64  # pictures
THUMBNAIL = 232  # pixels of the longer side
MAP = 48  # places of the longer side
TEMPLATE = Path(__file__).with_name("page.html")

Shown = dict[str, Any]
"""`thumbnail` (WebP) and `map` (PNG) in base64, `ends` of the map's colours, `contributions`."""


def thumbnail(rgb: RGB) -> str:
    """Return a small WebP of an image (H, W, 3), in base64."""
    image = Image.fromarray(rgb)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return _base64(image, "WEBP", quality=72, method=3)


def shown(score: Score, *, thumbnail: str | None) -> Shown:
    """Return what the gallery shows of a score made with `explain=True`."""
    ends, drawn = map_ends(score), None
    if score.map is not None:
        small = grey(score.map, ends)
        small.thumbnail((MAP, MAP), Image.Resampling.BOX)
        coloured = Image.fromarray(colours(np.asarray(small)))
        coloured.putalpha(told(score.map).resize(small.size, Image.Resampling.NEAREST))
        drawn = _base64(coloured.quantize(64), "PNG", optimize=True)
    contributions = score.contributions
    if contributions is not None:
        contributions = {name: round(value, 4) for name, value in contributions.items()}
    return {
        "thumbnail": thumbnail,
        "map": drawn,
        "ends": [round(end, 3) for end in ends],
        "contributions": contributions,
    }


def write_page(path: Path, rows: Callable[[], Iterable[Row]], *, title: str) -> int:
    """Write a gallery, whole or not at all; return how many pictures it shows.

    Args:
        rows: gives rows of results, each with what `shown` returned under `SHOWN` or without; it
            is asked twice, so that thumbnails need not be in memory.

    Raises:
        OutputError: the disk is full or the place cannot be written.
    """
    folder = path.absolute().parent
    told = [_told(row, folder) for row in rows()]
    scores = np.array([one["score"] for one in told if one["score"] is not None])
    scale = next(iter(rows()), {"low": 0, "high": 1})
    borders = np.quantile(scores, (1 / 3, 2 / 3)) if len(scores) else (scale["low"], scale["high"])
    page = {
        "title": title,
        "chunk": CHUNK,
        "low": scale["low"],
        "high": scale["high"],
        "coverage": 100 * COVERAGE,
        "borders": [round(float(border), 2) for border in borders],
        "experts": sorted({name for one in told for name in one["contributions"] or ()} - {"bias"}),
        "rows": told,
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    before, between, after = re.split("@ROWS@|@CHUNKS@", template)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        # "<" would let a prompt end the script that it stands in.
        file.write(before + json.dumps(page, ensure_ascii=True).replace("<", "\\u003c") + between)
        for number, row in enumerate(rows()):
            if number % CHUNK == 0:
                end = "</script>\n" if number else ""
                file.write(f'{end}<script id="c{number // CHUNK}" type="text/plain">\n')
            own = row.get(SHOWN) or {}
            file.write(f"{own.get('thumbnail') or '-'} {own.get('map') or '-'}\n")
        file.write(("</script>\n" if told else "") + after)
    return len(told)


def _told(row: Row, folder: Path) -> dict[str, Any]:
    own = row.get(SHOWN) or {}
    generation = {key: row[key] for key in KEYS if row.get(key)}
    return {
        "path": row["path"],
        "href": _address(row["path"], folder) if row["error"] is None else None,
        "score": None if row["score"] is None else round(row["score"], 4),
        "percentile": row["percentile"],
        "interval": row.get(INTERVAL),
        "error": row["error"],
        "hint": row["hint"],
        "contributions": own.get("contributions"),
        "ends": own.get("ends"),
        "generation": generation or None,
    }


def _address(path: str, folder: Path) -> str | None:
    """Return the picture's address from where the gallery lies."""
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # on another drive of Windows
        return Path(path).absolute().as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def _base64(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return b64encode(file.getvalue()).decode()
