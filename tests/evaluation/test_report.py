"""Evaluation reports: nothing dropped, strict JSON, caveats wherever numbers are shown."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ma_agiqa.config import ScoreInterval, TrainedOn
from ma_agiqa.data import datasets as registry
from ma_agiqa.data import splits
from ma_agiqa.data.samples import Samples
from ma_agiqa.errors import DataError, MissingExtraError, OutputError, UsageError
from ma_agiqa.evaluation import metrics
from ma_agiqa.evaluation.evaluate import on_scale_of, seen_in_training
from ma_agiqa.evaluation.report import (
    EvaluationReport,
    draw,
    evaluate_predictions,
    render,
    scatter,
)
from support.tiny_scorer import make_config

N = 120
METRICS = ["srcc", "plcc_raw", "plcc_fitted", "krcc", "rmse_fitted"]


def made() -> Samples:
    mos = np.random.default_rng(0).uniform(0, 5, N)
    groups = {
        "generator": tuple("ab"[i % 2] if i % 60 else "rare [one]" for i in range(N)),
        "prompt": tuple(f"prompt {i % 10}" for i in range(N)),
    }
    names = tuple(f"{i}.png" for i in range(N))
    return Samples(names, tuple(map(Path, names)), {"quality": mos}, groups, "made")


def predictions(samples: Samples, split: splits.Split, part: str) -> np.ndarray:
    mos = samples.target()[split.part(part)]
    return mos + np.random.default_rng(1).normal(0, 0.5, len(mos))


def report(part: str = "all", **options: object) -> EvaluationReport:
    samples = made()
    split = splits.resolve("paper", samples, "unused")
    pred = predictions(samples, split, part)
    return evaluate_predictions(samples, split, part, pred, model="m", resamples=20, **options)  # type: ignore[arg-type]


def shown(record: EvaluationReport) -> str:
    console = Console(file=io.StringIO(), width=100)
    render(record, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_report_holds_every_image_of_the_part_in_order() -> None:
    samples = made()
    split = splits.resolve("paper", samples, "unused")
    record = report("test", command="ma-agiqa evaluate")
    assert record.n == len(record.names) == len(record.mos) == len(record.pred) == len(split.test)
    assert record.names == tuple(samples.name[row] for row in split.test)
    assert record.mos == tuple(samples.target()[split.test])
    assert record.pred == tuple(predictions(samples, split, "test"))
    assert (record.dataset, record.target) == ("made", "quality")
    assert (record.split, record.part) == ("paper", "test")
    assert list(record.metrics) == METRICS
    assert record.metrics["srcc"].value == metrics.srcc(record.mos, record.pred)
    assert record.metrics["srcc"].low < record.metrics["srcc"].value < record.metrics["srcc"].high


@pytest.mark.parametrize("change", [lambda p: p[:-1], lambda p: np.append(p, 1), lambda p: p[None]])
def test_another_number_of_predictions_than_images_is_an_error(change: object) -> None:
    samples = made()
    split = splits.resolve("paper", samples, "unused")
    pred = change(predictions(samples, split, "test"))  # type: ignore[operator]
    with pytest.raises(DataError, match=rf"for {len(split.test)} records"):
        evaluate_predictions(samples, split, "test", pred, model="m")


def test_a_prediction_that_is_no_number_is_an_error_that_names_the_image() -> None:
    samples = made()
    split = splits.resolve("paper", samples, "unused")
    pred = predictions(samples, split, "test")
    pred[3] = np.nan
    with pytest.raises(DataError, match=f"1 of .*infinite: {samples.name[split.test[3]]}"):
        evaluate_predictions(samples, split, "test", pred, model="m")


@pytest.mark.parametrize("wrong", [{"target": "qualty"}, {"group_by": ["maker"]}, {"resamples": 0}])
def test_an_unknown_target_or_group_is_an_error(wrong: dict[str, object]) -> None:
    samples = made()
    split = splits.resolve("paper", samples, "unused")
    pred = predictions(samples, split, "test")
    with pytest.raises(UsageError):
        evaluate_predictions(samples, split, "test", pred, model="m", **wrong)  # type: ignore[arg-type]


def test_groups_are_tabulated_and_too_small_ones_have_no_metric() -> None:
    record = report()
    rows = {row.value: row for row in record.groups["generator"]}
    assert list(record.groups) == ["generator"]  # prompts have few images
    assert [rows[value].n for value in ("a", "b", "rare [one]")] == [58, 60, 2]
    members = np.array(record.labels["generator"]) == "a"
    mos, pred = np.array(record.mos)[members], np.array(record.pred)[members]
    assert rows["a"].srcc == metrics.srcc(mos, pred)
    assert (rows["a"].mean_mos, rows["a"].mean_pred) == (mos.mean(), pred.mean())
    assert np.isnan([rows["rare [one]"].srcc, rows["rare [one]"].plcc_raw]).all()


OURS = TrainedOn("made", "quality", "paper", 3, (0.0, 5.0))
TUNED = {"started_from": {"scores": {"slope": 0.05, "offset": 1.0}}}
FURTHER = {"name": "made", "target": "quality", "from_score": {"slope": 20.0, "offset": 5.0}}


@pytest.mark.parametrize(
    ("trained", "training", "expected"),
    [
        (OURS, {}, [45.0, 65.0]),
        (OURS, TUNED, [3.25, 4.25]),
        (replace(OURS, target="beauty"), {}, None),
        (replace(OURS, dataset="first"), {}, None),
        (replace(OURS, dataset="first"), {"data_sets": [{}, FURTHER]}, [2.0, 3.0]),
        (
            replace(OURS, dataset="first"),
            {"data_sets": [{}, {**FURTHER, "from_score": None}]},
            None,
        ),
        (None, {}, None),
    ],
    ids=["own", "own, tuned", "other target", "unknown set", "further set", "no map", "unknown"],
)
def test_human_scores_are_brought_to_the_scale_of_a_model_that_learned_from_such(
    trained: TrainedOn | None, training: dict, expected: list[float] | None
) -> None:
    names = ("a", "b")
    mos = {"quality": np.array([45.0, 65.0])}
    samples = Samples(names, tuple(map(Path, names)), mos, {}, "made")
    config = make_config(trained_on=trained, training=training)
    found = on_scale_of(config, samples, "quality")
    assert (None if found is None else found.tolist()) == expected


def test_the_report_says_how_many_human_scores_the_interval_holds() -> None:
    interval = ScoreInterval(half_width=0.5, coverage=0.8, images=9)
    held = np.arange(N) % 2 == 0  # group a, and both of the rare one
    record = report(interval=interval, held=held)
    assert record.covered == 0.5
    assert [row.covered for row in record.groups["generator"]] == [1.0, 0.0, 1.0]
    assert record.to_dict()["interval"] == {"half_width": 0.5, "coverage": 0.8, "images": 9}
    assert "50.0 % of the human scores lie within 0.50 of the score; 80 % are meant" in shown(
        record
    )
    assert "in interval" in shown(record)
    assert report().covered is None
    assert "interval" not in shown(report()).replace("95 % interval", "")


def test_warnings_of_the_metrics_become_caveats() -> None:
    samples = made()
    split = splits.resolve("paper", samples, "unused")
    falling = -predictions(samples, split, "all")
    record = evaluate_predictions(samples, split, "all", falling, model="m", resamples=20)
    assert any("plcc_fitted has lost its sign" in caveat for caveat in record.caveats)
    assert "plcc_fitted has lost its sign" in shown(record)


def test_json_is_strict_and_complete(tmp_path: Path) -> None:
    record = report()
    record.to_json(tmp_path / "r.json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    assert data["n"] == N
    assert data["metrics"]["srcc"]["value"] == record.metrics["srcc"].value
    assert data["groups"]["generator"][2]["srcc"] is None
    assert data["caveats"] == list(record.caveats) != []
    assert set(data["environment"]) == {"hardware", "versions", "commit", "date"}


def test_scores_of_single_images_are_in_the_csv_and_not_in_the_json(tmp_path: Path) -> None:
    record = report()
    assert not {"names", "mos", "pred", "labels"} & set(record.to_dict())
    record.write_predictions(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(row["name"] for row in rows) == record.names
    assert tuple(float(row["pred"]) for row in rows) == record.pred
    assert tuple(float(row["mos"]) for row in rows) == record.mos


def test_an_unwritable_report_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write, name in ((report().to_json, "r.json"), (partial(scatter, report()), "r.png")):
        with pytest.raises(OutputError, match="cannot be written"):
            write(tmp_path / "file" / name)


def test_the_terminal_shows_figures_groups_and_caveats() -> None:
    record = report()
    text = shown(record)
    for expected in ("paper:all", f"{N} images", "SRCC", "PLCC, fitted", "rare [one]"):
        assert expected in text
    assert f"{record.metrics['krcc'].value:.4f}" in text
    assert record.protocol in text
    assert "every test prompt also occurs in training" in text


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_the_plot_is_of_the_kind_its_suffix_says(tmp_path: Path, suffix: str, start: bytes) -> None:
    pytest.importorskip("matplotlib")
    scatter(report(), tmp_path / f"plot{suffix}")
    assert (tmp_path / f"plot{suffix}").read_bytes().startswith(start)


def test_the_plot_shows_every_image_its_group_the_curve_and_the_caveat() -> None:
    figures = pytest.importorskip("matplotlib.figure")

    record = report()
    axes = figures.Figure().add_subplot()
    draw(record, axes)
    dots = np.concatenate([np.asarray(group.get_offsets()) for group in axes.collections])
    expected = np.stack([record.pred, record.mos], axis=1)
    np.testing.assert_array_equal(dots[np.lexsort(dots.T)], expected[np.lexsort(expected.T)])
    assert {group.get_label() for group in axes.collections} == {"a", "b", "rare [one]"}
    curve = metrics.logistic_fit(record.mos, record.pred)
    x, y = axes.lines[0].get_data()
    np.testing.assert_array_equal(y, curve(x))
    assert f"SRCC {record.metrics['srcc'].value:.4f}" in axes.get_title()
    assert "every test prompt also occurs in training" in axes.get_title()


def test_many_groups_share_the_last_colour_and_none_is_lost() -> None:
    figures = pytest.importorskip("matplotlib.figure")

    samples = made()
    labels = {"generator": tuple(f"g{i % 30}" for i in range(N))}
    many = Samples(samples.name, samples.path, samples.targets, labels, "made")
    split = splits.resolve("all", many, "unused")
    pred = predictions(many, split, "test")
    record = evaluate_predictions(many, split, "test", pred, model="m", resamples=5)
    axes = figures.Figure().add_subplot()
    draw(record, axes)
    assert sum(len(group.get_offsets()) for group in axes.collections) == N
    assert axes.collections[-1].get_label() == "21 others"


def test_a_plot_needs_a_known_suffix_and_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"\.png \.svg \.pdf"):
        scatter(report(), tmp_path / "plot.xyz")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"\[train\]"):
        scatter(report(), tmp_path / "plot.png")
    assert list(tmp_path.iterdir()) == []


def test_perfect_predictions_of_the_real_test_part_are_perfect(
    agiqa_3k: Path, tmp_path: Path
) -> None:
    samples = registry.load("agiqa-3k", agiqa_3k)
    split = splits.resolve("paper", samples, agiqa_3k)
    pred = samples.target("alignment")[split.test]
    record = evaluate_predictions(
        samples, split, "test", pred, model="oracle", target="alignment", resamples=20
    )
    assert record.n == 597
    for name in ("srcc", "krcc", "plcc_raw", "plcc_fitted"):
        # A correlation of equal arrays misses 1 by rounding, a fit by where it stops (1e-9).
        assert record.metrics[name].value == pytest.approx(1, abs=1e-8)
    assert {row.value for row in record.groups["generator"]} == set(samples.groups["generator"])
    Image.new("RGB", (1, 1)).save(tmp_path / "x.png")
    scatter(record, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (960, 960)  # 6.4 inch at 150 dots, over the old file


def test_images_that_any_training_of_the_model_saw_are_counted() -> None:
    samples = made()
    chosen = splits.resolve("random-0", samples, "unused")
    rows = np.arange(N)
    for training in (
        {"data_sets": [{"name": "other", "split": "paper"}, {"name": "made", "split": "random-0"}]},
        {"started_from": {"trained_on": "made, random-0"}},
    ):
        (note,) = seen_in_training(make_config(training=training), samples, rows, Path("unused"))
        assert note.startswith(f"{len(chosen.train) + len(chosen.val)} of these {N} images")
        assert "random-0" in note
        assert not seen_in_training(make_config(training=training), samples, chosen.test, Path())
    assert not seen_in_training(make_config(training={}), samples, rows, Path("unused"))
