"""The probe: fitted on train, chosen on validation, judged once on test, from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ma_agiqa.data import datasets as registry
from ma_agiqa.data import splits
from ma_agiqa.data.samples import Samples, TableColumns
from ma_agiqa.errors import DataError, FeatureError, UsageError
from ma_agiqa.evaluation import metrics
from ma_agiqa.evaluation.probe import ALPHAS, features_of, fit_probe, probe
from ma_agiqa.features.source import hash_files
from ma_agiqa.features.store import FeatureStore, Header
from ma_agiqa.lmm.encoder import OFFICIAL
from support.agiqa_part import copy_part
from support.command_line import run

IMAGES, WIDTH = 60, 16


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A table of sixty files, and a store whose `meaning` vectors hold the scores."""
    generator = np.random.default_rng(0)
    scores = generator.uniform(0, 5, IMAGES)
    (tmp_path / "images").mkdir()
    rows = [["image", "score", "other", "prompt"]]
    for number, score in enumerate(scores):
        name = f"images/{number}.png"
        (tmp_path / name).write_bytes(f"content of {number}".encode())
        rows.append([name, repr(float(score)), str(number % 7), f"prompt {number // 3}"])
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    header = Header(encoder={"encoder": "made up"}, width=WIDTH, questions=OFFICIAL)
    store = FeatureStore.create(tmp_path / "store", header)
    telling = np.outer(scores, generator.normal(size=WIDTH))
    telling += generator.normal(size=telling.shape)
    idle = generator.normal(size=telling.shape)
    hashes = hash_files([tmp_path / row[0] for row in rows[1:]])
    with store.writer() as writer:
        for sha, one, other in zip(hashes, telling, idle, strict=True):
            writer.add(sha, torch.tensor(np.stack([one, other])))
    return tmp_path


def samples_of(desk: Path, score: str = "score") -> Samples:
    return registry.load(desk / "table.csv", desk, TableColumns("image", score, "prompt"))


def test_the_report_is_of_the_test_part_and_the_choice_of_validation(desk: Path) -> None:
    samples, store = samples_of(desk), FeatureStore.open(desk / "store")
    split = splits.resolve("random-1", samples, desk)
    fitted, report = probe(store, samples, split, resamples=100)
    assert report.names == samples.subset(split.test).name
    assert (fitted.train, fitted.val, report.n) == (42, 6, 12)
    assert [trial.alpha for trial in fitted.trials] == pytest.approx(list(ALPHAS))
    best = min(fitted.trials, key=lambda trial: trial.rmse)
    assert fitted.alpha == best.alpha
    val = features_of(store, samples.subset(split.val))
    mos = samples.target()[split.val]
    assert best.rmse == pytest.approx(np.sqrt(np.mean((mos - fitted.predict(val)) ** 2)))
    assert best.srcc == pytest.approx(metrics.srcc(mos, fitted.predict(val)))
    assert report.metrics["srcc"].value > 0.8  # the scores stand in the vectors, with noise


def test_only_the_vectors_named_count(desk: Path) -> None:
    samples, store = samples_of(desk), FeatureStore.open(desk / "store")
    both = features_of(store, samples)
    assert both.shape == (IMAGES, 2 * WIDTH)
    assert np.array_equal(features_of(store, samples, ["coherence"]), both[:, WIDTH:])
    turned = features_of(store, samples, ["coherence", "meaning"])
    assert np.array_equal(turned, np.concatenate([both[:, WIDTH:], both[:, :WIDTH]], axis=1))
    split = splits.resolve("random-1", samples, desk)
    telling, _ = probe(store, samples, split, vectors=["meaning"], resamples=100)
    idle, report = probe(store, samples, split, vectors=["coherence"], resamples=100)
    assert len(telling.path.weights) == WIDTH
    assert min(t.rmse for t in telling.trials) < 0.5 * min(t.rmse for t in idle.trials)
    assert report.metrics["srcc"].value < 0.6  # noise: deviation 0.3 over twelve images


def test_a_strength_at_the_end_of_the_grid_is_a_caveat(desk: Path) -> None:
    samples, store = samples_of(desk), FeatureStore.open(desk / "store")
    generator = np.random.default_rng(1)
    noise = Samples(
        name=samples.name,
        path=samples.path,
        targets={"score": generator.normal(size=IMAGES)},
        groups=samples.groups,
        dataset="noise",
    )
    # Six scores that the vectors say nothing of: which end is best is their chance.
    split = splits.resolve("random-0", noise, desk)
    fitted, report = probe(store, noise, split, vectors=["coherence"], resamples=100)
    assert fitted.alpha in (ALPHAS[0], ALPHAS[-1])
    assert f"the chosen strength {fitted.alpha:g} is an end of the grid" in report.caveats


def test_a_missing_vector_is_counted_and_named(desk: Path) -> None:
    (desk / "images/7.png").write_bytes(b"another picture now")
    with pytest.raises(FeatureError, match=r"no vectors of 1 of 60 images of table: images/7\.png"):
        features_of(FeatureStore.open(desk / "store"), samples_of(desk))


def test_a_changed_byte_in_a_store_ends_the_probe_with_the_shard_named(desk: Path) -> None:
    """It ran to the end: the vectors were others, and nobody compared the sha256."""
    (shard,) = (desk / "store/shards").glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1000] ^= 1
    shard.write_bytes(content)
    done = run(*words(desk))
    assert done.exit_code != 0
    assert "no vectors of 42 of 42 images of table" in done.stderr
    assert f"{shard.name}: damaged shard: sha256" in done.stderr.replace("\n", "")


def test_a_missing_image_is_counted_and_named(desk: Path) -> None:
    (desk / "images/7.png").unlink()
    with pytest.raises(DataError, match=r"1 of 60 images of table are missing: .*7\.png"):
        features_of(FeatureStore.open(desk / "store"), samples_of(desk))


def test_vectors_that_are_not_finite_are_counted_and_named(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, right = FeatureStore.open(desk / "store"), FeatureStore.get

    def damaged(self: FeatureStore, hashes: list[str], **how: object) -> torch.Tensor:
        found = right(self, hashes, **how)
        found[5, 0, 2] = float("nan")
        return found

    monkeypatch.setattr(FeatureStore, "get", damaged)
    with pytest.raises(FeatureError, match=r"1 of 60 .* hold NaN or infinity: images/5\.png"):
        features_of(store, samples_of(desk))


def test_unknown_names_are_refused_with_those_that_exist(desk: Path) -> None:
    samples, store = samples_of(desk), FeatureStore.open(desk / "store")
    with pytest.raises(UsageError, match="no vectors named 'meening'; it has meaning, coherence"):
        features_of(store, samples, ["meening"])
    with pytest.raises(UsageError, match="named once each"):
        features_of(store, samples, ["meaning", "meaning"])
    with pytest.raises(UsageError, match="no target 'beauty'"):
        fit_probe(store, samples, splits.resolve("random-1", samples, desk), target="beauty")


def test_a_split_without_training_or_scores_without_spread_are_refused(desk: Path) -> None:
    samples, store = samples_of(desk), FeatureStore.open(desk / "store")
    with pytest.raises(DataError, match="no images in its part 'train'"):
        fit_probe(store, samples, splits.resolve("all", samples, desk))
    flat = Samples(
        samples.name, samples.path, {"score": np.full(IMAGES, 3.0)}, samples.groups, "flat"
    )
    with pytest.raises(DataError, match="nothing to learn"):
        fit_probe(store, flat, splits.resolve("random-1", flat, desk))


def words(desk: Path, *more: object) -> list[object]:
    return ["probe", "--store", desk / "store", "--data", desk / "table.csv", "--root", desk, *more]


def test_the_command_prints_and_writes_figures_and_predictions(desk: Path) -> None:
    out, csv_out = desk / "probe.json", desk / "probe.csv"
    done = run(
        *words(desk, "--split", "prompt-3", "--prompt-column", "prompt", "--vectors", "meaning"),
        *("--json", out, "--predictions", csv_out, "--resamples", 100),
    )
    assert done.exit_code == 0, done.stderr
    report = json.loads(out.read_text())
    assert (report["split"], report["part"], report["n"]) == ("prompt-3", "test", 12)
    assert report["probe"]["vectors"] == ["meaning"]
    assert report["probe"]["features"] == WIDTH
    assert report["probe"]["encoder"] == {"encoder": "made up"}
    assert len(report["probe"]["trials"]) == len(ALPHAS)
    with csv_out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    mos, pred = ([float(row[key]) for row in rows] for key in ("mos", "pred"))
    assert report["metrics"]["srcc"]["value"] == pytest.approx(metrics.srcc(mos, pred))
    assert f"{report['metrics']['srcc']['value']:.4f}" in done.stdout
    assert "ridge regression on 16 features (meaning) of 42 images" in done.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--split", "random-1:val"], "val chooses its strength"),
        (["--split", "papper"], "unknown split 'papper'"),
        (["--target", "beauty"], "no target 'beauty'"),
        (["--vectors", "hands"], "no vectors named 'hands'"),
    ],
)
def test_wrong_use_ends_with_status_2_and_a_line(desk: Path, more: list[str], message: str) -> None:
    done = run(*words(desk, *more))
    assert done.exit_code == 2
    assert message in done.stderr


def test_handcrafted_vectors_of_real_images_are_extracted_and_probed(
    agiqa_3k: Path, tmp_path: Path
) -> None:
    root, store = tmp_path / "AGIQA-3K", tmp_path / "store"
    copy_part(agiqa_3k, root, every=40)
    data = ["--data", "agiqa-3k", "--root", root, "--store", store]
    done = run("extract", "--lmm", "handcrafted", *data)
    assert done.exit_code == 0, done.stderr
    assert [q.name for q in FeatureStore.open(store).header.questions] == ["statistics"]
    done = run("probe", *data, "--json", tmp_path / "report.json", "--resamples", 100)
    assert done.exit_code == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["n"] == 15
    # Blur, noise and colour tell something of quality even to 52 images: far above chance,
    # whose deviation over fifteen images is 0.27.
    assert report["metrics"]["srcc"]["value"] > 0.4
