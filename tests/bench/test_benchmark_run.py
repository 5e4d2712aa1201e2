"""The bench end to end: every kind of job, kills, changes, failures, and what is written."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ma_agiqa.bench import job as job_module
from ma_agiqa.bench import models
from ma_agiqa.bench import run as run_module
from ma_agiqa.bench.job import Bench, Job
from ma_agiqa.bench.models import AblationSpec, ProbeSpec
from ma_agiqa.bench.run import Result
from ma_agiqa.data import datasets as registry
from ma_agiqa.data import splits
from ma_agiqa.data.samples import TableColumns
from ma_agiqa.errors import FeatureError
from ma_agiqa.evaluation import metrics
from ma_agiqa.evaluation.probe import probe
from ma_agiqa.evaluation.report import EvaluationReport, evaluate_predictions
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.files import lock_folder
from ma_agiqa.training.run import TrainRequest
from support import bench_desk, tiny_paper
from support.bench_desk import DATA, HEAD, PEER, PROBE, TRAIN
from support.command_line import run, save_model

A, B = DATA.format(name="a"), DATA.format(name="b")


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    return bench_desk.write(tmp_path)


@pytest.fixture(autouse=True)
def quick_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge with few resamples and short fits, which would take most of the time."""

    def few_resamples(*arguments: Any, resamples: int, **options: Any) -> EvaluationReport:
        assert resamples == 100  # of the grid
        return evaluate_predictions(*arguments, resamples=10, **options)

    monkeypatch.setattr(job_module, "evaluate_predictions", few_resamples)
    monkeypatch.setattr(metrics, "MAX_EVALUATIONS", 10)


def results(desk: Path) -> dict[str, Any]:
    return json.loads((desk / "out/results.json").read_text())


def benchmark(desk: Path, *parts: str, status: int = 0) -> Any:
    path = bench_desk.grid(desk, *parts)
    done = run("benchmark", path, "--out", desk / "out", "--device", "cpu")
    assert done.exit_code == status, done.stderr
    return done


def test_every_kind_of_model_is_judged_on_the_same_splits(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def train(request: TrainRequest, *, observer: object) -> Path:
        asked.append((Path(request.data).stem, request.split, request.seed))
        return save_model(request.out / "model", seed=request.seed)

    monkeypatch.setattr(models, "train", train)
    save_model(desk / "tiny", seed=0)
    tiny = '[[model]]\nname = "tiny"\nkind = "directory"\nmodel = "./tiny"\n'
    one = [text.replace("0..1", "0") for text in (A, B)]
    done = benchmark(desk, HEAD, *one, PROBE, PEER, TRAIN, tiny)
    found = results(desk)
    rows = {(row["model"], row["data"]): row for row in found["summary"]["rows"]}
    assert {key: (row["splits"], row["cells"]) for key, row in rows.items()} == {
        (model, data): (1, 2 if model == "trained" else 1)
        for model in ("probe", "peer", "trained", "tiny")
        for data in "ab"
    }
    cross = {(r["model"], r["trained_on"], r["data"]): r for r in found["summary"]["cross"]}
    assert set(cross) == {(m, *pair) for m in ("probe", "trained") for pair in ("ab", "ba")}
    # Both sets' vectors tell their scores in the same way, so what is learned carries over.
    assert cross["probe", "a", "b"]["figures"]["srcc"]["median"] > 0.7
    assert cross["trained", "a", "b"]["cells"] == 2
    assert asked == [(data, "random-0", seed) for data in "ab" for seed in (0, 1)]
    assert "lower is better in these scores: they were negated" in rows["peer", "a"]["caveats"]
    assert "| probe | 1 | 1 |" in done.stdout
    samples = registry.load(desk / "a.csv", desk, TableColumns("image", "score", "prompt"))
    split = splits.resolve("random-0", samples, desk)
    _, report = probe(FeatureStore.open(desk / "store"), samples, split, resamples=100)
    cell = next(c for c in found["cells"] if c["title"] == "probe on a random-0")
    assert cell["judgements"][0]["report"]["metrics"]["srcc"]["value"] == pytest.approx(
        report.metrics["srcc"].value
    )


def test_jobs_at_once_give_the_results_of_one_after_the_other(desk: Path) -> None:
    grid = bench_desk.grid(desk, HEAD, A, PROBE)

    def judged(out: str, jobs: int) -> tuple[list[float], str]:
        words = ["--out", desk / out, "--device", "cpu", "--jobs", str(jobs)]
        done = run("benchmark", grid, *words)
        assert done.exit_code == 0, done.stderr
        cells = json.loads((desk / out / "results.json").read_text())["cells"]
        return [
            c["judgements"][0]["report"]["metrics"]["srcc"]["value"] for c in cells
        ], done.stderr

    one_by_one, _ = judged("one-by-one", 1)
    together, said = judged("together", 2)
    assert together == one_by_one
    assert "probe on a random-1" in said
    assert "(kept)" not in said
    again, said = judged("together", 2)
    assert again == together
    assert said.count("(kept)") == len(together) == 2


def test_a_process_that_dies_is_a_row(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_finish", dies)
    grid = bench_desk.grid(desk, HEAD, A, PROBE)
    done = run("benchmark", grid, "--out", desk / "out", "--device", "cpu", "--jobs", "2")
    assert done.exit_code == 1
    assert "its process ended without a word" in done.stderr
    assert "Traceback" not in done.stderr


def dies(*_: object) -> None:
    os._exit(9)


def test_models_of_one_key_are_one_process(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trainings shared one folder; its lock stopped the second, and with it the benchmark."""
    monkeypatch.setattr(run_module, "_finish", notes_its_key)
    grid = bench_desk.grid(desk, HEAD, A, PROBE, PROBE.replace('"probe"\nk', '"Probe"\nk'))
    done = run("benchmark", grid, "--out", desk / "out", "--device", "cpu", "--jobs", "2")
    assert done.exit_code == 1, done.stderr
    keys = (desk / "out/keys").read_text().splitlines()
    assert len(keys) == len(set(keys)) == 2
    assert done.stderr.count("failed: ") == 4  # a row for each model


def notes_its_key(job: Job, bench: Bench) -> Result:
    with (bench.out / "keys").open("a") as file:
        file.write(f"{job.key}\n")
    return Result(job, (), "only counted", 0.0, {})


def test_models_are_chosen_on_validation_without_a_look_at_the_test_part(desk: Path) -> None:
    done = benchmark(desk, HEAD, 'part = "val"\n', A, PROBE, PEER)
    found = results(desk)
    samples = registry.load(desk / "a.csv", desk, TableColumns("image", "score", "prompt"))
    for cell in found["cells"]:
        (judgement,) = cell["judgements"]
        split = splits.resolve(judgement["split"], samples, desk)
        assert judgement["report"]["part"] == "val"
        assert judgement["report"]["n"] == len(split.part("val")) != len(split.part("test"))
    assert all(len(c["per_split"]) == 2 for c in found["summary"]["comparisons"])
    assert "figures to choose by, not to report" in done.stdout
    assert "figures to choose by" in (desk / "out/results.md").read_text()
    keys = {path.name for path in (desk / "out/cells").iterdir()}
    benchmark(desk, HEAD, A, PROBE, PEER)  # the test part: other cells
    assert len({path.name for path in (desk / "out/cells").iterdir()} - keys) == len(keys)


def test_a_row_holds_median_and_range_of_its_runs(desk: Path) -> None:
    benchmark(desk, HEAD.replace("cross = true", ""), A.replace("0..1", "0..2"), PROBE)
    found = results(desk)
    values = [c["judgements"][0]["report"]["metrics"]["srcc"] for c in found["cells"]]
    (row,) = found["summary"]["rows"]
    figure = row["figures"]["srcc"]
    assert figure["median"] == np.median([v["value"] for v in values])
    assert (figure["least"], figure["most"]) == (
        min(v["value"] for v in values),
        max(v["value"] for v in values),
    )
    assert figure["low"] == np.median([v["low"] for v in values])


def test_models_are_compared_with_the_baseline_image_by_image(desk: Path) -> None:
    benchmark(desk, HEAD, A, PROBE, PEER)
    (comparison,) = results(desk)["summary"]["comparisons"]
    assert (comparison["model"], comparison["baseline"]) == ("peer", "probe")
    files = {
        p.name.rsplit("-", 1)[0]: json.loads(p.read_text()) for p in (desk / "out/cells").iterdir()
    }
    samples = registry.load(desk / "a.csv", desk, TableColumns("image", "score", "prompt"))
    differences = []
    for name in ("random-0", "random-1"):
        mos = samples.target()[splits.resolve(name, samples, desk).test]
        ours, theirs = (files[f"{m}-on-a-{name}"]["judgements"][0] for m in ("peer", "probe"))
        assert ours["names"] == theirs["names"]
        difference = metrics.srcc(mos, ours["pred"]) - metrics.srcc(mos, theirs["pred"])
        assert comparison["per_split"][name]["value"] == pytest.approx(difference)
        differences.append(difference)
    assert comparison["over_splits"]["value"] == pytest.approx(np.mean(differences))
    assert comparison["over_splits"]["method"] == "corrected resampled t"


def test_results_of_other_images_are_not_compared(desk: Path) -> None:
    """Predictions were paired by place alone."""
    benchmark(desk, HEAD, A, PROBE, PEER)
    (path,) = (desk / "out/cells").glob("peer-on-a-random-1-*.json")
    cell = json.loads(path.read_text())
    cell["judgements"][0]["names"].reverse()
    path.write_text(json.dumps(cell))
    done = benchmark(desk, HEAD, A, PROBE, PEER, status=2)
    assert "peer on a random-1 is of other images than its split" in done.stderr
    assert path.name in done.stderr


def test_finished_jobs_stay_and_a_killed_run_goes_on(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    right = ProbeSpec.run

    def killed_at_the_second(self: ProbeSpec, job: Any, bench: Any) -> Any:
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(job.title)
        return right(self, job, bench)

    monkeypatch.setattr(ProbeSpec, "run", killed_at_the_second)
    benchmark(desk, HEAD, A, PROBE, status=130)
    kept = {p.name: p.stat().st_mtime_ns for p in (desk / "out/cells").iterdir()}
    assert len(kept) == 1
    assert not (desk / "out/results.json").exists()

    def counted(self: ProbeSpec, job: Any, bench: Any) -> Any:
        calls.append(job.title)
        return right(self, job, bench)

    monkeypatch.setattr(ProbeSpec, "run", counted)
    done = benchmark(desk, HEAD, A, PROBE)
    assert calls == ["probe on a random-0", "probe on a random-1"]
    assert "[1/2] probe on a random-0 (kept)" in done.stderr
    for name, time in kept.items():
        assert (desk / "out/cells" / name).stat().st_mtime_ns == time
    assert len(results(desk)["cells"]) == 2


def test_only_jobs_whose_settings_or_content_changed_run_again(desk: Path) -> None:
    benchmark(desk, HEAD, A, PROBE, PEER)
    unchanged = benchmark(desk, HEAD, A, PROBE, PEER)
    assert unchanged.stderr.count("(kept)") == 4
    text = (desk / "peer.csv").read_text()
    (desk / "peer.csv").write_text(re.sub(r"a/7.png,.*", "a/7.png,1.25", text))
    changed = benchmark(desk, HEAD, A, PROBE, PEER)
    assert changed.stderr.count("(kept)") == 2
    assert "probe on a random-0 (kept)" in changed.stderr
    scores = (desk / "a.csv").read_text()
    (desk / "a.csv").write_text(re.sub(r"a/7.png,[^,]*", "a/7.png,4.5", scores))
    assert "(kept)" not in benchmark(desk, HEAD, A, PROBE, PEER).stderr


def test_a_damaged_result_runs_again(desk: Path) -> None:
    benchmark(desk, HEAD, A, PROBE)
    first = results(desk)["summary"]
    path = sorted((desk / "out/cells").iterdir())[0]
    path.write_text(path.read_text()[:200])
    done = benchmark(desk, HEAD, A, PROBE)
    assert done.stderr.count("(kept)") == 1
    assert results(desk)["summary"] == first


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FeatureError("no vectors", remedy="extract"), "no vectors (extract)"),
        (RuntimeError("out of memory"), "RuntimeError: out of memory"),
    ],
)
def test_a_failing_job_is_a_row_and_the_rest_goes_on(
    desk: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    right = ProbeSpec.run

    def fails_once(self: ProbeSpec, job: Any, bench: Any) -> Any:
        if job.split == "random-0":
            raise error
        return right(self, job, bench)

    with monkeypatch.context() as patch:
        patch.setattr(ProbeSpec, "run", fails_once)
        done = benchmark(desk, HEAD, A, PROBE, PEER, status=1)
    found = results(desk)
    assert found["summary"]["errors"] == [["probe on a random-0", told]]
    row = next(r for r in found["summary"]["rows"] if r["model"] == "probe")
    assert (row["cells"], row["failed"]) == (2, 1)
    assert f"failed: probe on a random-0: {told}" in done.stderr
    assert "1 (1 failed)" in done.stdout
    assert told in (desk / "out/results.md").read_text()
    # What is left is compared on the split that has both.
    assert list(found["summary"]["comparisons"][0]["per_split"]) == ["random-1"]
    again = benchmark(desk, HEAD, A, PROBE, PEER)
    assert again.stderr.count("(kept)") == 3
    assert results(desk)["summary"]["errors"] == []


def test_a_full_disk_ends_the_run(desk: Path) -> None:
    (desk / "out").mkdir()
    (desk / "out/cells").write_text("a file where the folder should be")
    done = run("benchmark", bench_desk.grid(desk, HEAD, A, PROBE), "--out", desk / "out")
    assert done.exit_code == 2
    assert "cannot be written" in done.stderr


def test_nothing_runs_when_a_name_is_unknown(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProbeSpec, "run", lambda *_: pytest.fail("a job ran"))
    wrong = PEER.replace('"peer"', '"other"').replace("peer.csv", "nowhere.csv")
    done = benchmark(desk, HEAD, A, PROBE, wrong, status=2)
    assert "nowhere.csv: no such file" in done.stderr
    assert not (desk / "out").exists()


def test_nothing_runs_on_a_device_that_is_not_there(desk: Path) -> None:
    """Every cell failed with the same reason, and the status was that of a partial success."""
    path = bench_desk.grid(desk, HEAD, A, PROBE)
    done = run("benchmark", path, "--out", desk / "out", "--device", "cudda")
    assert done.exit_code == 2
    assert "device 'cudda' cannot be used" in done.stderr
    assert not (desk / "out").exists()


def test_check_lists_the_jobs_and_does_nothing(desk: Path) -> None:
    path = bench_desk.grid(desk, HEAD, A, PROBE, TRAIN)
    done = run("benchmark", path, "--out", desk / "out", "--check")
    assert done.stdout.splitlines() == [
        "probe on a random-0",
        "probe on a random-1",
        "trained on a random-0, seed 0",
        "trained on a random-0, seed 1",
        "trained on a random-1, seed 0",
        "trained on a random-1, seed 1",
    ]
    assert not (desk / "out").exists()


def test_no_human_score_is_written(desk: Path) -> None:
    """They belong to the data set's publisher; results are to be shared."""
    benchmark(desk, HEAD, A, PROBE, PEER)
    samples = registry.load(desk / "a.csv", desk, TableColumns("image", "score", "prompt"))
    written = "".join(p.read_text() for p in (desk / "out").rglob("*") if p.is_file())
    assert not [score for score in samples.target().tolist() if repr(score) in written]


def test_a_training_is_judged_and_its_model_named(desk: Path) -> None:
    benchmark(desk, "resamples = 100\n", A.replace("0..1", "0"), TRAIN)
    (result,) = results(desk)["cells"]
    assert result["title"] == "trained on a random-0, seed 0"
    assert result["judgements"][0]["report"]["n"] == 10
    config = json.loads((Path(result["detail"]["model"]) / "config.json").read_text())
    assert config["trained_on"]["split"] == "random-0"


def test_a_training_takes_some_of_a_stores_questions_and_no_gate(desk: Path) -> None:
    """The row of an ablation; all its rows are written out in `test_grid.py`."""
    for module in ("timm", "cv2"):
        pytest.importorskip(module, reason="the paper's network needs the extra `paper`")
    network = [f"visual.{key}={value}" for key, value in tiny_paper.NETWORK.items()]
    (row,) = (
        row
        for row in AblationSpec(name="x", store=desk / "store", network=tuple(network)).models()
        if row.vectors == ("coherence",)
    )
    model = f"""
[[model]]
name = "{row.name}"
kind = "train"
model = "{row.model}"
store = "store"
vectors = ["coherence"]
backbone = "random"
settings = ["epochs=1", "batch_size=8"]
network = {json.dumps([*row.network, "gate=none"])}
also = "b.csv=.@random-1"
"""
    benchmark(desk, "resamples = 100\n", A.replace("0..1", "0"), model)
    (cell,) = results(desk)["cells"]
    config = json.loads((Path(cell["detail"]["model"]) / "config.json").read_text())
    assert list(config["questions"]) == ["coherence"]
    assert config["network"]["gate"] == "none"
    assert cell["judgements"][0]["report"]["n"] == 10


def test_a_file_of_somebody_else_is_not_written_over(desk: Path) -> None:
    (desk / "out").mkdir()
    (desk / "out/results.json").write_text('{"mine": 1}')
    done = benchmark(desk, HEAD, A, PROBE, status=2)
    assert "was not written by a benchmark" in done.stderr
    assert (desk / "out/results.json").read_text() == '{"mine": 1}'


def test_two_benchmarks_on_one_folder_are_not_run(desk: Path) -> None:
    with lock_folder(desk / "out"):
        done = benchmark(desk, HEAD, A, PROBE, status=2)
    assert "another run is writing this" in done.stderr
    assert not (desk / "out/cells").exists()
