"""The tables of a benchmark: which runs share a row, and beside which published figures stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ma_agiqa.bench.literature import PUBLISHED
from ma_agiqa.bench.report import kind_of
from support import bench_desk
from support.command_line import run

METHODS = {row.method for row in PUBLISHED if row.data == "agiqa-3k"}
SCORES = '[[model]]\nname = "peer"\nkind = "scores"\nfile = "peer.csv"\n'


@pytest.mark.parametrize(
    ("split", "kind"),
    [
        ("paper", "paper"),
        ("ipce-01", "ipce"),
        ("prompt-12", "prompt"),
        ("random-0", "random"),
        ("random-8-2-0", "random-8-2"),
        ("unseen-sd1.5", "unseen"),
        ("unseen-xl-2", "unseen"),
        ("training/random-20", "training/random"),
        ("training/unseen-glide", "training/unseen"),
    ],
)
def test_splits_made_in_one_way_are_of_one_kind(split: str, kind: str) -> None:
    assert kind_of(split) == kind


def judged(folder: Path, data: str) -> tuple[dict[str, Any], str]:
    """Judge made-up scores of a made-up AGIQA-3K, as the registry reads it and as a table."""
    generator = np.random.default_rng(0)
    names = [f"glide_normal_{number:03d}.jpg" for number in range(60)]
    mos = generator.uniform(0, 5, (60, 2)).tolist()
    rows = [[name, "words", *map(repr, pair)] for name, pair in zip(names, mos, strict=True)]
    head = ["name", "prompt", "mos_quality", "mos_align"]
    for file in ("data.csv", "agiqa-3k.csv"):
        bench_desk.write_csv(folder / file, [head, *rows])
    peer = [[name, repr(float(generator.normal()))] for name in names]
    bench_desk.write_csv(folder / "peer.csv", [["name", "score"], *peer])
    grid = bench_desk.grid(folder, "resamples = 100\n[[data]]\nroot = '.'\n", data, SCORES)
    done = run("benchmark", grid, "--out", folder / "out", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    return json.loads((folder / "out/results.json").read_text())["summary"], done.stdout


def test_published_figures_stand_beside_a_data_set_of_any_name(tmp_path: Path) -> None:
    """They were looked for by the name that the grid gives, and left out."""
    data = "data = 'agiqa-3k'\nname = 'ours'\nsplits = ['random-0', 'random-8-2-0']\n"
    summary, text = judged(tmp_path, data)
    assert {row["method"] for row in summary["published"]} == METHODS
    assert [(row["data"], row["protocol"]) for row in summary["rows"]] == [
        ("ours", "random"),
        ("ours", "random-8-2"),
    ]
    assert text.count("| *MA-AGIQA* |") == 2


@pytest.mark.parametrize(
    "data",
    [
        "data = 'agiqa-3k.csv'\nimage_column = 'name'\nscore_column = 'mos_quality'\n",
        "data = 'agiqa-3k'\ntarget = 'alignment'\n",
    ],
)
def test_other_pictures_or_scores_have_no_published_figures(tmp_path: Path, data: str) -> None:
    """A table of the name of a known data set got the figures of that."""
    summary, text = judged(tmp_path, data + "splits = ['random-0']\n")
    assert summary["published"] == []
    assert "MA-AGIQA" not in text
