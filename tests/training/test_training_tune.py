"""A trained model is trained further: what it keeps, what is recorded, what does not fit."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ma_agiqa.config import ModelConfig, Preprocess, TrainedOn
from ma_agiqa.data import datasets, splits
from ma_agiqa.data.samples import TableColumns
from ma_agiqa.errors import DataError, FeatureError, ModelError, UsageError
from ma_agiqa.evaluation.evaluate import predict
from ma_agiqa.features.source import hash_files
from ma_agiqa.features.store import FeatureStore, Header
from ma_agiqa.lmm.encoder import Question, to_record
from ma_agiqa.models import checkpoint
from ma_agiqa.scorer import load
from ma_agiqa.training import data as training_data
from ma_agiqa.training.data import Source
from ma_agiqa.training.network import find_start
from ma_agiqa.training.recipe import RECIPES, Recipe, with_settings
from ma_agiqa.training.run import Silence, TrainRequest, train
from ma_agiqa.types import Scale
from support import scored_pictures, tiny_paper
from support.agiqa_part import copy_part
from support.command_line import save_model
from support.scripts import load_script

# Too small a step to change a weight, and no average: what comes out is what went in.
STANDSTILL = Recipe(epochs=1, batch_size=8, crop=32, learning_rate=1e-30, weight_decay=0, ema=0)
QUESTIONS = (Question("first", "Is it sharp?"), Question("second", "Is it whole?"))
WIDTH = 6


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored_pictures.write(tmp_path_factory.mktemp("set"), low=10, high=90)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny", seed=3)


def tune(table: Path, out: Path, model: Path, **changes: Any) -> ModelConfig:
    settings: dict[str, Any] = {
        "data": str(table),
        "root": table.parent,
        "out": out,
        "recipe": STANDSTILL,
        "model": str(model),
        "split": "random-0",
        "device": "cpu",
        "precision": "float32",
    }
    train(TrainRequest(**(settings | changes)), observer=Silence())
    return checkpoint.read_config(out / "model")


def test_tuning_starts_from_the_weights_and_keeps_network_preprocessing_and_scale(
    table: Path, model: Path, tmp_path: Path
) -> None:
    config = tune(table, tmp_path / "run", model)
    before, start = checkpoint.load(model)
    after, _ = checkpoint.load(tmp_path / "run" / "model")
    for name, value in before.named_parameters():
        # A bias of zero moves by the step itself, 1e-30.
        torch.testing.assert_close(after.get_parameter(name), value, rtol=0, atol=1e-28)
    assert start.network.items() <= config.network.items()  # and today's defaults
    assert config.preprocess == start.preprocess
    assert config.scale == start.scale
    assert config.name == "tiny-tuned"


def test_scores_of_the_new_set_are_learned_on_the_scale_of_the_model(
    table: Path, model: Path, tmp_path: Path
) -> None:
    config = tune(table, tmp_path / "run", model)
    record = config.training["started_from"]
    assert record["fingerprint"] == checkpoint.fingerprint(model)
    assert record["trained_on"] == "made-up, paper"
    trained = config.trained_on
    assert trained is not None
    quantiles = np.array(trained.score_quantiles)
    # The table does not say its scale: the span of its training scores becomes 0 to 5.
    assert quantiles[[0, -1]] == pytest.approx([0.0, 5.0])
    # By hand: human scores through the map, scores of the kept weights, the largest of six.
    assert config.interval is not None
    assert config.interval.images == 6
    samples = datasets.load(str(table), table.parent)
    val = samples.subset(splits.resolve("random-0", samples, table.parent).val)
    mos = record["scores"]["slope"] * val.target() + record["scores"]["offset"]
    residuals = np.abs(mos - predict(load(tmp_path / "run" / "model", device="cpu"), val))
    # Rounding of float32 in other batches.
    assert config.interval.half_width == pytest.approx(residuals.max(), abs=1e-4)
    way = record["scores"]
    assert way["slope"] > 0
    card = (tmp_path / "run/model/README.md").read_text()
    assert "Fine-tuned from `tiny`" in card
    assert "random initial weights" not in card


def test_a_set_of_the_same_scale_is_learned_as_it_is(model: Path, agiqa_3k: Path) -> None:
    sources = [Source("agiqa-3k", agiqa_3k, "paper")]
    settings: dict[str, Any] = {"target": None, "columns": TableColumns()}
    (same,) = training_data.load_sets(sources, **settings, scale=Scale(0, 5))
    assert (same.to_model.slope, same.to_model.offset) == (1, 0)
    (other,) = training_data.load_sets(sources, **settings, scale=Scale(0, 100))
    assert (other.to_model.slope, other.to_model.offset) == (20, 0)


def test_tuning_resumes_only_from_the_same_model(table: Path, model: Path, tmp_path: Path) -> None:
    changed = tmp_path / "copy"
    shutil.copytree(model, changed)
    tune(table, tmp_path / "run", changed)
    save_model(changed, seed=4)
    with pytest.raises(UsageError, match="the run was started with started_from"):
        tune(table, tmp_path / "run", changed, resume=True)


def test_what_cannot_be_tuned_says_why(table: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing named 'compcat'.*did you mean compact"):
        tune(table, tmp_path / "a", Path("compcat"))
    with pytest.raises(UsageError, match="leave out --network"):
        tune(table, tmp_path / "b", model, network=("drop=0",))
    for backbone in ("random", "published"):
        with pytest.raises(UsageError, match="leave out --backbone"):
            tune(table, tmp_path / "b", model, backbone=backbone)
    with pytest.raises(ModelError, match="not a model directory"):
        tune(table, tmp_path / "c", table.parent)
    with pytest.raises(UsageError, match="leave out --store"):
        tune(table, tmp_path / "d", model, store=tmp_path)
    assert not (tmp_path / "b").exists(), "a refused run leaves nothing"


def test_each_kind_of_model_has_a_recipe_for_tuning(model: Path) -> None:
    assert find_start(str(model)).recipe == "compact-tune"
    for name in ("compact", "modern"):
        fresh, tuned = RECIPES[name], RECIPES[f"{name}-tune"]
        assert tuned.learning_rate < fresh.learning_rate
        assert tuned.epochs < fresh.epochs


# --- with stored features ------------------------------------------------------------------------


def write_store(
    folder: Path,
    table: Path,
    *,
    questions: tuple[Question, ...] = QUESTIONS,
    width: int = WIDTH,
    revision: str = "1",
    leave_out: int = 0,
) -> Path:
    """Fill a store with random vectors of the pictures of a table."""
    header = Header({"encoder": "made-up", "revision": revision}, width, questions)
    store, g = FeatureStore.create(folder, header), torch.Generator().manual_seed(0)
    paths = sorted(table.parent.glob("*.png"))
    with store.writer() as writer:
        for sha in hash_files(paths)[leave_out:]:
            writer.add(sha, torch.randn(len(questions), width, generator=g))
    return folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny paper network with two semantic vectors, random weights."""
    pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")
    pytest.importorskip("cv2", reason="the paper's resize needs the extra `paper`")
    config = ModelConfig(
        name="reader",
        architecture="ma-agiqa",
        network={"semantics": 2, "semantic_width": WIDTH, "visual": tiny_paper.NETWORK},
        preprocess=Preprocess("paper"),
        scale=Scale(0.0, 5.0),
        questions=to_record(QUESTIONS),
        encoder={"encoder": "made-up", "revision": "1"},
    )
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("models") / "reader"
    checkpoint.save(directory, checkpoint.build(config), config, card="for a test")
    return directory


PAPER = with_settings(RECIPES["modern-tune"], ["epochs=1"])


def test_a_model_with_semantics_is_tuned_from_its_own_store(
    table: Path, reader: Path, tmp_path: Path
) -> None:
    # In another order than the model asks: its own order counts.
    store = write_store(tmp_path / "store", table, questions=QUESTIONS[::-1])
    config = tune(table, tmp_path / "run", reader, store=store, recipe=PAPER)
    assert list(config.questions) == ["first", "second"]
    vectors = FeatureStore.open(store).get(hash_files(sorted(table.parent.glob("*.png"))[:3]))
    start, opened = find_start(str(reader)), FeatureStore.open(store)
    sets = training_data.load_sets(
        [Source(str(table), table.parent, "random-0")],
        target=None,
        columns=TableColumns(),
        scale=None,
    )
    from ma_agiqa.features.source import vectors_of

    got = vectors_of(opened, sets[0].samples.subset([0, 1, 2]), config=start.config)
    assert got is not None
    assert torch.equal(got, vectors.flip(1))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"revision": "2"}, "holds vectors of encoder .* expected"),
        ({"width": 5}, "2 vectors of width 5 per image, reader takes 2 of width 6"),
        ({"questions": QUESTIONS[:1]}, "has no vectors for question 'second'"),
        ({"questions": (QUESTIONS[0], Question("second", "Is it blue?"))}, "question 'second' was"),
        ({"leave_out": 20}, r"has no vectors of \d+ of 42 images of scores"),
    ],
)
def test_a_store_of_something_else_is_refused(
    table: Path, reader: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    store = write_store(tmp_path / "store", table, **changes)
    with pytest.raises(FeatureError, match=reason):
        tune(table, tmp_path / "run", reader, store=store, recipe=PAPER)


def test_vectors_that_are_not_finite_are_counted(
    table: Path, reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_store(tmp_path / "store", table)
    get = FeatureStore.get

    def damaged(self: FeatureStore, *words: Any, **options: Any) -> torch.Tensor:
        vectors = get(self, *words, **options)
        vectors[:2, 0, 0] = torch.nan
        return vectors

    monkeypatch.setattr(FeatureStore, "get", damaged)
    with pytest.raises(FeatureError, match=r"vectors of 2 of 42 images of scores hold NaN"):
        tune(table, tmp_path / "run", reader, store=store, recipe=PAPER)


def test_scores_that_are_no_numbers_are_counted(table: Path, model: Path, tmp_path: Path) -> None:
    with table.open() as file:
        rows = list(csv.reader(file))
    rows[3][1], rows[7][1] = "nan", ""
    copy = table.with_name("holes.csv")
    with copy.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(DataError, match=r"2 of 60 values of 'score' are no finite numbers"):
        tune(copy, tmp_path / "run", model)


def test_the_interval_of_a_trained_model_is_measured_again(
    model: Path, agiqa_3k: Path, tmp_path: Path
) -> None:
    directory, root = tmp_path / "model", tmp_path / "AGIQA-3K"
    rows = copy_part(agiqa_3k, root, every=50)
    assert len(rows) > 60
    config = replace(
        checkpoint.read_config(model),
        trained_on=TrainedOn("agiqa-3k", "quality", "paper", 42, (0.0, 2.5, 5.0)),
        interval=None,
    )
    checkpoint.save(directory, checkpoint.load(model)[0], config, card="for a test")
    weights = (directory / checkpoint.WEIGHTS).read_bytes()
    measure_interval = load_script("ship_compact", "scripts").measure_interval
    interval = measure_interval(directory, root)
    assert interval is not None
    assert interval.images == 6
    assert checkpoint.read_config(directory) == replace(config, interval=interval)
    assert (directory / checkpoint.WEIGHTS).read_bytes() == weights
    checkpoint.save(
        directory, checkpoint.load(model)[0], replace(config, trained_on=None), card="for a test"
    )
    with pytest.raises(UsageError, match="does not say what it was trained on"):
        measure_interval(directory, root)
