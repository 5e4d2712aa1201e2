"""Foreign scores: matched by name, never turned around in silence; peers through pyiqa."""

from __future__ import annotations

import csv
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ma_agiqa.bench import pyiqa_metrics as peers
from ma_agiqa.data import datasets as registry
from ma_agiqa.data import splits
from ma_agiqa.data.samples import Samples, TableColumns
from ma_agiqa.errors import DataError, MAAGIQAError, MissingExtraError, ModelError, UsageError
from ma_agiqa.evaluation import metrics
from ma_agiqa.evaluation.evaluate import evaluate_scores, read_scores, write_scores
from support import bench_desk
from support.command_line import run


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    return bench_desk.write(tmp_path)


@pytest.fixture(autouse=True)
def short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images hardly fix a logistic curve, and its search would take most of the time."""
    monkeypatch.setattr(metrics, "MAX_EVALUATIONS", 60)


def samples_of(desk: Path) -> Samples:
    return registry.load(desk / "a.csv", desk, TableColumns("image", "score", "prompt"))


def report_of(desk: Path, **options: Any) -> Any:
    samples = samples_of(desk)
    split = splits.resolve("random-0", samples, desk)
    return evaluate_scores(desk / "peer.csv", samples, split, resamples=100, **options)


def test_scores_belong_to_names_not_to_rows(desk: Path) -> None:
    report = report_of(desk)
    scores = read_scores(desk / "peer.csv")
    assert list(report.pred) == [scores[name] for name in report.names]
    assert report.metrics["srcc"].value == metrics.srcc(report.mos, report.pred)
    assert report.model == "peer"


def test_a_falling_relation_is_told_and_not_turned(desk: Path) -> None:
    report = report_of(desk)
    assert report.metrics["srcc"].value < -0.5
    assert any("if lower is better in these scores, say so" in line for line in report.caveats)


def test_lower_is_better_negates_and_says_so(desk: Path) -> None:
    plain, turned = report_of(desk), report_of(desk, lower_is_better=True)
    assert turned.metrics["srcc"].value == -plain.metrics["srcc"].value
    assert list(turned.pred) == [-value for value in plain.pred]
    assert "lower is better in these scores: they were negated" in turned.caveats


def test_scores_are_written_as_they_are_read(tmp_path: Path) -> None:
    scores = {"a,b.png": 1 / 3, 'c"d.png': -1e-300}
    write_scores(tmp_path / "new/scores.csv", scores)
    assert read_scores(tmp_path / "new/scores.csv") == scores


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,score\na,1\na,2\n", "more than once: a"),
        ("name,score\na,nan\n", "1 of 1 values of 'score' are no finite numbers"),
        ("file,score\na,1\n", "no column 'name'"),
        ("name,score\n", "no rows"),
        ("name,score\n,1\n", "row 1 has an empty 'name'"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_scores(tmp_path / "scores.csv")


def test_a_missing_image_is_counted_and_named(desk: Path) -> None:
    lines = (desk / "peer.csv").read_text().splitlines()
    gone = report_of(desk).names[3]
    (desk / "peer.csv").write_text("\n".join(line for line in lines if gone + "," not in line))
    with pytest.raises(DataError, match=f"no score for 1 of 10 images of a: {gone}"):
        report_of(desk)


def test_the_command_judges_scores_in_place_of_a_model(desk: Path) -> None:
    words = ["evaluate", "--data", desk / "a.csv", "--root", desk, "--split", "random-0"]
    more = ["--scores", desk / "peer.csv", "--resamples", 100]
    done = run(*words, *more, "--lower-is-better", "--predictions", desk / "out.csv")
    assert done.exit_code == 0, done.stderr
    value = report_of(desk, lower_is_better=True).metrics["srcc"].value
    assert f"{value:.4f}" in done.stdout
    assert "they were negated" in " ".join(done.stdout.split())
    with (desk / "out.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 10
    alone = run(*words, "--lower-is-better")
    assert alone.exit_code == 2
    assert "--lower-is-better belongs to --scores" in alone.stderr


def test_options_of_a_model_beside_scores_are_refused(desk: Path) -> None:
    words = ["evaluate", "--data", desk / "a.csv", "--root", desk, "--scores", desk / "peer.csv"]
    done = run(*words, "--model", "compact", "--batch-size", 2)
    assert done.exit_code == 2
    assert "--model, --batch-size cannot be used beside --scores" in done.stderr


class Measure:
    """Stands in for a measure of pyiqa: the mean of the picture, lower is better."""

    lower_better = True

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        assert tuple(pixels.shape) == (1, 3, 32, 36)
        assert pixels.dtype == torch.float32
        assert float(pixels.max()) <= 1
        return pixels.mean()


@pytest.fixture
def pyiqa(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("pyiqa")
    module.list_models = lambda metric_mode: ["brisque", "niqe"]  # type: ignore[attr-defined]
    module.create_metric = lambda name, device: Measure()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    monkeypatch.setattr(peers.metadata, "version", lambda name: "0.0")
    return module


def test_a_peer_gives_one_raw_score_per_image(desk: Path, pyiqa: types.ModuleType) -> None:
    out = desk / "brisque.csv"
    done = run("peer", "brisque", "--data", desk / "a.csv", "--root", desk, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert "judge it with --lower-is-better" in done.stderr
    scores = read_scores(out)
    assert tuple(scores) == samples_of(desk).name
    from PIL import Image

    pixels = np.asarray(Image.open(desk / "a/3.png"), dtype=np.float64)
    # A float32 mean of 3,456 values.
    assert scores["a/3.png"] == pytest.approx(pixels.mean() / 255, rel=1e-5)


def test_a_grid_takes_a_peer_negated_as_the_library_says(
    desk: Path, pyiqa: types.ModuleType
) -> None:
    entry = '[[model]]\nname = "B"\nkind = "peer"\nmetric = "brisque"\n'
    data = bench_desk.DATA.format(name="a")
    grid = bench_desk.grid(desk, "resamples = 100\n", data, entry)
    done = run("benchmark", grid, "--out", desk / "out", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert "lower is better in these scores: they were negated" in done.stdout
    # The pictures' brightness is their score, so the negated mean falls with it.
    assert "negated, and yet the relation is falling" in done.stdout
    assert len(list((desk / "out/scores").iterdir())) == 1


def test_an_unknown_measure_is_refused(pyiqa: types.ModuleType) -> None:
    with pytest.raises(UsageError, match=r"no measure 'brisk' without reference.*mean brisque"):
        peers.version("brisk")


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (
            OSError("Temporary failure in name resolution"),
            r"brisque: its weights cannot be had.*network",
        ),
        (
            ModuleNotFoundError("No module named 'pkg_resources'"),
            r"brisque: pyiqa cannot open it: .*'pkg_resources'",
        ),
    ],
)
def test_what_a_peer_lacks_is_a_typed_error(
    pyiqa: types.ModuleType, cause: Exception, message: str
) -> None:
    def absent(name: str, device: str) -> Any:
        raise cause

    pyiqa.create_metric = absent  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=message):
        peers.PyiqaMetric("brisque")


def test_a_measure_that_gives_no_number_names_the_image(
    desk: Path, pyiqa: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Measure, "__call__", lambda self, pixels: torch.tensor(float("nan")))
    with pytest.raises(MAAGIQAError, match=r"a/0\.png: brisque gave nan"):
        peers.PyiqaMetric("brisque")((desk / "a/0.png").read_bytes(), name="a/0.png")


def test_a_peer_names_what_fails_and_a_second_run_computes_only_that(
    desk: Path, pyiqa: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (desk / "a/1.png").read_bytes()
    (desk / "a/1.png").write_bytes(whole[:200])
    out = desk / "brisque.csv"
    words = ["peer", "brisque", "--data", desk / "a.csv", "--root", desk, "--out", out]
    first = run(*words)
    assert first.exit_code == 1
    assert "failed: a/1.png:" in first.stderr
    assert len(read_scores(out)) == len(samples_of(desk)) - 1

    (desk / "a/1.png").write_bytes(whole)
    judged = []
    measure = Measure.__call__
    monkeypatch.setattr(
        Measure, "__call__", lambda self, pixels: judged.append(1) or measure(self, pixels)
    )
    second = run(*words)
    assert second.exit_code == 0, second.stderr
    assert len(judged) == 1
    assert tuple(read_scores(out)) == samples_of(desk).name
    assert not list(desk.glob("*.partial"))


def gives_up_on_the_darkest(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """Make the measure give no number for one picture; return its name."""
    from PIL import Image

    means = {p.name: np.asarray(Image.open(p)).mean() for p in folder.iterdir()}
    darkest = min(means, key=means.__getitem__)
    level = (means[darkest] + 1e-3) / 255
    measure = Measure.__call__

    def call(self: Measure, pixels: torch.Tensor) -> torch.Tensor:
        value = measure(self, pixels)
        return value if float(value) > level else value / 0 - value / 0

    monkeypatch.setattr(Measure, "__call__", call)
    return f"{folder.name}/{darkest}"


def test_where_a_peer_has_no_number_the_worst_score_stands_if_asked_for(
    desk: Path, pyiqa: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = gives_up_on_the_darkest(monkeypatch, desk / "a")
    out = desk / "niqe.csv"
    words = ["peer", "niqe", "--data", desk / "a.csv", "--root", desk, "--out", out]
    plain = run(*words)
    assert plain.exit_code == 1
    assert f"failed: {name}: niqe gave nan" in plain.stderr
    assert name not in read_scores(out)

    (desk / "a/7.png").write_bytes(b"no picture")
    done = run(*words, "--fill-worst")
    assert done.exit_code == 1  # a file that cannot be read is no matter of the measure
    assert f"the worst score: {name}: niqe gave nan" in done.stderr
    assert "failed: a/7.png" in done.stderr
    scores = read_scores(out)
    assert "a/7.png" not in scores
    assert scores[name] == max(scores.values())  # lower is better here
    assert tuple(scores) == tuple(n for n in samples_of(desk).name if n != "a/7.png")


@pytest.mark.parametrize("fill", [False, True])
def test_a_grid_says_where_a_peer_has_no_number(
    desk: Path, pyiqa: types.ModuleType, monkeypatch: pytest.MonkeyPatch, fill: bool
) -> None:
    name = gives_up_on_the_darkest(monkeypatch, desk / "a")
    rule = f"fill_worst = {str(fill).lower()}\n"
    entry = f'[[model]]\nname = "N"\nkind = "peer"\nmetric = "niqe"\n{rule}'
    data = bench_desk.DATA.format(name="a").replace("random-0..1", "all")
    grid = bench_desk.grid(desk, "resamples = 100\n", data, entry)
    done = run("benchmark", grid, "--out", desk / "out", "--device", "cpu")
    assert done.exit_code == (0 if fill else 1)
    said = "niqe gives no number for 1 of these images: they count as the worst"
    assert (said if fill else f"{name}: niqe gave nan") in done.stdout


def test_where_no_image_has_a_number_there_is_no_worst_score(
    desk: Path, pyiqa: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Measure, "__call__", lambda self, pixels: torch.tensor(float("nan")))
    out = desk / "niqe.csv"
    words = ["peer", "niqe", "--data", desk / "a.csv", "--root", desk, "--out", out]
    done = run(*words, "--fill-worst")
    assert done.exit_code == 2
    assert "gives no number for any image: a/0.png" in done.stderr
    assert not out.exists()


def test_short_memory_is_no_matter_of_the_measure(
    desk: Path, pyiqa: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(self: Measure, pixels: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Measure, "__call__", short)
    words = ["peer", "niqe", "--data", desk / "a.csv", "--root", desk, "--out", desk / "n.csv"]
    done = run(*words, "--fill-worst")
    assert done.exit_code == 1
    assert "failed: a/0.png: niqe does not fit in memory (try --device cpu)" in done.stderr
    assert "the worst score" not in done.stderr


def test_a_peer_writes_csv_only(desk: Path, pyiqa: types.ModuleType) -> None:
    done = run("peer", "brisque", "--data", desk / "a.csv", "--root", desk, "--out", "x.json")
    assert done.exit_code == 2
    assert "end the name in .csv" in done.stderr


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[peers\]'"):
        peers.version("brisque")
