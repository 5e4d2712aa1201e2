"""Several data sets of several scales give one model; what joins them is recorded."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ma_agiqa.cli import app
from ma_agiqa.data import datasets, splits
from ma_agiqa.data.samples import read_table
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.evaluation.evaluate import predict
from ma_agiqa.models import checkpoint
from ma_agiqa.scorer import load
from ma_agiqa.training.data import ScaleMaps, Source, between, fitted, standardised
from ma_agiqa.training.recipe import RECIPES, Recipe
from ma_agiqa.training.run import Silence, TrainRequest, train
from support import scored_pictures

NETWORK = ("width_factor=0.25", "content_side=64")


def write_scores(path: Path, rows: list[tuple[str, float]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "score"), *rows])
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two tables of other pictures, one from 1 to 5, one from 0 to 100 and noisier."""
    root, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(1)
    table = read_table(scored_pictures.write(root, count=120))
    rows = [(str(r["image"]), float(r["score"])) for r in table.to_dict("records")]
    wide = [(name, 25 * (score - 1) + rng.normal(0, 3)) for name, score in rows[1::2]]
    return write_scores(root / "one.csv", rows[::2]), write_scores(root / "wide.csv", wide)


def fit(tables: tuple[Path, Path], out: Path, recipe: Recipe, **changes: Any) -> dict[str, Any]:
    """Train on both tables; return the line of the last epoch."""
    one, wide = tables
    settings: dict[str, Any] = {
        "data": str(one),
        "root": one.parent,
        "also": (Source(str(wide), wide.parent, "random-0"),),
        "backbone": "random",
        "out": out,
        "recipe": recipe,
        "network": NETWORK,
        "split": "random-0",
        "device": "cpu",
        "precision": "float32",
    }
    train(TrainRequest(**(settings | changes)), observer=Silence())
    line: dict[str, Any] = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    return line


def test_one_model_ranks_both_sets_and_knows_the_way_to_the_other_scale(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = Recipe(epochs=6, batch_size=8, crop=32, ranking=0.5)
    line = fit(tables, tmp_path / "run", recipe)
    # Noise is plain to see in these pictures; without learning SRCC of 6 images scatters by 0.4.
    assert line["srcc/one"] > 0.8
    assert line["srcc/wide"] > 0.8
    assert line["srcc"] == pytest.approx((line["srcc/one"] + line["srcc/wide"]) / 2)
    _, config = checkpoint.load(tmp_path / "run" / "model")
    assert config.scale.high < 6, "the first set's scale"
    assert config.interval is not None
    assert config.interval.images == 6, "of the first set alone"
    # On validation again, by the weights that were kept.
    samples = datasets.load(str(tables[0]), tables[0].parent)
    val = samples.subset(splits.resolve("random-0", samples, tables[0].parent).val)
    residuals = np.abs(val.target() - predict(load(tmp_path / "run" / "model", device="cpu"), val))
    # The largest of six; rounding of float32 in other batches.
    assert config.interval.half_width == pytest.approx(residuals.max(), abs=1e-4)
    first, second = config.training["data_sets"]
    assert (first["name"], second["name"]) == ("one", "wide")
    assert second["scale"][1] > 90
    assert second["from_score"]["slope"] > 5 * first["from_score"]["slope"] > 0
    assert "Data set wide" in (tmp_path / "run/model/README.md").read_text()


def test_a_run_on_two_sets_resumes_to_the_same_weights(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = Recipe(epochs=2, batch_size=8, crop=32)
    fit(tables, tmp_path / "whole", recipe)

    class Interrupted(Silence):
        def epoch_started(self, epoch: int, epochs: int) -> None:
            if epoch == 1:
                raise KeyboardInterrupt

    one, wide = tables
    request = TrainRequest(
        data=str(one),
        root=one.parent,
        also=(Source(str(wide), wide.parent, "random-0"),),
        backbone="random",
        out=tmp_path / "broken",
        recipe=recipe,
        network=NETWORK,
        split="random-0",
        device="cpu",
        precision="float32",
    )
    with pytest.raises(KeyboardInterrupt):
        train(request, observer=Interrupted())
    with pytest.raises(
        UsageError, match=r"started with also \[\['.*wide.csv', 'random-0'\]\], not None"
    ):
        fit(tables, tmp_path / "broken", recipe, also=(), resume=True)
    fit(tables, tmp_path / "broken", recipe, resume=True)
    saved = [
        torch.load(tmp_path / name / "state.pt", weights_only=True)["trainer"]
        for name in ("whole", "broken")
    ]
    assert "network.likeness.weight" in saved[0]["learner"]
    for part in ("learner", "average"):
        for name, value in saved[0][part].items():
            assert torch.equal(value, saved[1][part][name]), f"{part} {name}"


def test_real_pictures_of_two_scales_are_ranked_by_one_model(
    agiqa_3k: Path, tmp_path: Path
) -> None:
    """AGIQA-3K halved: one half keeps its scores, the other is told from 0 to 100 with noise."""
    rng = np.random.default_rng(0)
    rows = [
        (str(agiqa_3k / "images" / row["name"]), float(row["mos_quality"]))
        for row in read_table(agiqa_3k / "data.csv").to_dict("records")[::8]
    ]
    wide = [(name, 20 * score + rng.normal(0, 5)) for name, score in rows[1::2]]
    tables = write_scores(tmp_path / "one.csv", rows[::2]), write_scores(tmp_path / "w.csv", wide)
    recipe = replace(
        RECIPES["compact"], epochs=2, crop=96, distorted=0, batch_size=16, frozen_depth=0
    )
    line = fit(tables, tmp_path / "run", recipe, network=("content_side=96",), backbone="published")
    # Without knowledge the mean of two correlations of 18 images would scatter by 0.17 around 0.
    assert line["srcc"] > 0.4
    assert line["plcc_raw"] > 0.6
    _, config = checkpoint.load(tmp_path / "run" / "model")
    own, other = (one["from_score"] for one in config.training["data_sets"])
    # 20 within the error of two slopes fitted through 18 noisy points each.
    assert 10 < other["slope"] / own["slope"] < 40


def test_images_that_two_sets_share_are_counted(tables: tuple[Path, Path], tmp_path: Path) -> None:
    one, _ = tables
    lines = one.read_text().splitlines()
    again = one.with_name("again.csv")
    again.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    fit((one, again), tmp_path / "run", Recipe(epochs=1, batch_size=8, crop=32))
    _, config = checkpoint.load(tmp_path / "run" / "model")
    assert config.training["seen_twice"] > 0
    assert "too good" in (tmp_path / "run/model/README.md").read_text()


def test_a_second_set_that_cannot_train_is_named(tables: tuple[Path, Path], tmp_path: Path) -> None:
    one, wide = tables
    flat = write_scores(one.with_name("flat.csv"), [(f"{n:02d}.png", 3.0) for n in range(60)])
    with pytest.raises(DataError, match="images of flat have the same score"):
        fit((one, flat), tmp_path / "a", Recipe(batch_size=8))
    few = write_scores(one.with_name("few.csv"), [(f"{n:02d}.png", n) for n in range(20)])
    with pytest.raises(DataError, match="few: 2 validation images cannot select"):
        fit((one, few), tmp_path / "b", Recipe(batch_size=8))
    words = ["train", "--data", str(one), "--root", str(one.parent), "--out", str(tmp_path / "c")]
    done = CliRunner().invoke(app, [*words, "--also", str(wide)])
    assert done.exit_code == 2
    assert "expected NAME=ROOT or NAME=ROOT@SPLIT" in done.stderr


def test_maps_leave_the_first_set_alone_and_rise() -> None:
    maps = ScaleMaps(sets=3, mean=2.5, spread=0.8)
    torch.nn.init.normal_(maps.log_slope)
    torch.nn.init.normal_(maps.offset)
    score = torch.linspace(0, 5, 6)
    for number in range(3):
        mapped = maps(score, torch.full((6,), number))
        assert bool((mapped.diff() > 0).all())
        if number == 0:
            assert torch.allclose(mapped, score, atol=1e-6)


def test_linear_maps_do_what_they_are_named_for() -> None:
    scores = np.array([10.0, 40.0, 90.0])
    assert between(0, 100, 1, 5)(np.array([0.0, 50.0, 100.0])).tolist() == [1.0, 3.0, 5.0]
    like = np.array([1.0, 2.0, 4.0, 4.5])
    brought = standardised(scores, like)(scores)
    assert brought.mean() == pytest.approx(like.mean())
    assert brought.std() == pytest.approx(like.std())
    way = fitted(scores, 2 * scores - 3)
    assert way is not None
    assert (way.slope, way.offset) == pytest.approx((2, -3))
    assert fitted(scores, -scores) is None
    assert fitted(np.ones(3), scores) is None
