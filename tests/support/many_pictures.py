"""Small pictures in every kind of place that a source may be."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def pngs(count: int) -> dict[str, bytes]:
    return {f"{number:03d}.png": png(number) for number in range(count)}


def folder(place: Path, pictures: dict[str, bytes]) -> Path:
    place.mkdir()
    for name, data in pictures.items():
        (place / name).write_bytes(data)
    return place


def tar(place: Path, pictures: dict[str, bytes]) -> Path:
    """As WebDataset has it: beside each picture a text and a label."""
    with tarfile.open(place, "w:gz" if place.suffix == ".gz" else "w") as archive:
        for name, data in pictures.items():
            stem = name.rsplit(".", 1)[0]
            for member, content in ((name, data), (f"{stem}.txt", b"a fox"), (f"{stem}.cls", b"1")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return place


def zipped(place: Path, pictures: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(place, "w", method) as archive:
        archive.writestr("readme.txt", "no picture")
        for name, data in pictures.items():
            archive.writestr(name, data)
    return place


def parquet(place: Path, pictures: dict[str, bytes], *, rows: int = 3) -> Path:
    """Bytes, names, and in the manner of Hugging Face both in one column."""
    table = pa.table(
        {
            "name": list(pictures),
            "content": list(pictures.values()),
            "image": [{"bytes": data, "path": name} for name, data in pictures.items()],
        }
    )
    pq.write_table(table, place, row_group_size=rows)
    return place


def saved_dataset(place: Path, pictures: dict[str, bytes]) -> Path:
    """What `datasets.save_to_disk` of Hugging Face writes."""
    place.mkdir()
    items = [{"bytes": data, "path": name} for name, data in pictures.items()]
    table = pa.table({"image": items, "label": list(range(len(items)))})
    names = []
    half = len(items) // 2
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        names.append({"filename": f"data-{number:05d}-of-00002.arrow"})
        sink = str(place / names[-1]["filename"])
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part, max_chunksize=2)
    (place / "state.json").write_text(json.dumps({"_data_files": names}))
    (place / "dataset_info.json").write_text("{}")
    return place
