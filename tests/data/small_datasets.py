"""Copies of known data sets with a few records each, in the layouts they are published in."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from pathlib import Path

import openpyxl
from PIL import Image

from ma_agiqa.data.datasets import DATASETS, Dataset

HEADER = "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align"
ROWS = [
    'AttnGAN_normal_000.jpg,"a cat, asleep",,,,1.5,0.2,2.5,0.3',
    "sd1.5_lowstep_001.jpg,007,,,,3.25,0.2,0,0.3",
    "xl2.2_normal_002.jpg,a dog,,,,5,0.2,4.5,0",
]
SPAQ_FILE = "Annotations/MOS and Image attribute scores.xlsx"
SPAQ_ATTRIBUTES = ["Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]


def write_csv(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_sheet(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    for row in [header, *rows]:
        book.active.append(row)
    book.save(path)
    return path


WRITERS = {"csv": write_csv, "xlsx": write_sheet}


def small_agiqa_3k(root: Path) -> Dataset:
    """Write three records and their images of 8 x 8; return the entry that fits them."""
    text = "\r\n".join([HEADER, *ROWS]) + "\r\n"
    (root / "data.csv").write_bytes(text.encode())
    (root / "images").mkdir()
    for row in ROWS:
        Image.new("RGB", (8, 8), "red").save(root / "images" / row.split(",")[0])
    digest = hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()
    return dataclasses.replace(
        DATASETS["agiqa-3k"], records=3, checksums={"data.csv": digest}, sizes={"images": (8, 8)}
    )


def small_20k(root: Path, kind: str, *, scored: bool = True) -> None:
    """Write three annotation files of AIGIQA-20K with 3, 1 and 2 records."""
    for part, numbers in (("train", [0, 1, 2]), ("val", [3]), ("test", [4, 5])):
        has_scores = scored or part == "train"
        header = ["name", "prompt", "mos"] if has_scores else ["name", "prompt"]
        rows: list[list[object]] = [
            [f"LCM_SD1.5_{i:04d}.png", f"prompt {i}", i / 2][: len(header)] for i in numbers
        ]
        WRITERS[kind](root / f"info_{part}.{kind}", header, rows)


def small_spaq(root: Path, kind: str = "xlsx", n: int = 4) -> None:
    """Write annotations of SPAQ with n records."""
    rows: list[list[object]] = [
        [f"{i:05d}.jpg", 10.5 * i, 10 + i, 20 + i, 30 + i, 40 + i, 50 + i] for i in range(1, n + 1)
    ]
    WRITERS[kind](
        root / SPAQ_FILE.replace("xlsx", kind), ["Image name", "MOS", *SPAQ_ATTRIBUTES], rows
    )


def small_live_itw(root: Path, n: int = 20) -> list[str]:
    """Write n pictures of LIVE In the Wild and `ratings.csv`; return their names."""
    kinds = ["jpg", "webp", "bmp", "JPG"]
    names = [f"{i}.{kinds[i % len(kinds)]}" for i in range(n)]
    (root / "images").mkdir(parents=True)
    for name in names:
        Image.new("RGB", (10, 10)).save(root / "images" / name)
    rows: list[list[object]] = [[name, 100 * i / n, 15.5] for i, name in enumerate(names)]
    write_csv(root / "ratings.csv", ["name", "mos", "std"], rows)
    return names
