"""A store of some of another's questions holds their vectors as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ma_agiqa.bench.models import select_questions
from ma_agiqa.data import datasets as registry
from ma_agiqa.data.samples import TableColumns
from ma_agiqa.errors import FeatureError
from ma_agiqa.features.source import hash_files, keys_of, vectors_of
from ma_agiqa.features.store import FeatureStore, Header
from ma_agiqa.lmm.encoder import Question
from support import bench_desk


def test_a_store_of_some_questions_has_the_same_vectors_and_encoder_and_is_made_once(
    tmp_path: Path,
) -> None:
    desk = bench_desk.write(tmp_path)
    samples = registry.load(desk / "a.csv", desk, TableColumns("image", "score", "prompt"))
    path = select_questions(desk / "store", ["coherence"], [samples], desk / "stores")
    whole, part = FeatureStore.open(desk / "store"), FeatureStore.open(path)
    assert part.header.encoder == whole.header.encoder
    assert [question.name for question in part.header.questions] == ["coherence"]
    hashes = hash_files(samples.path)
    assert torch.equal(part.get(hashes), whole.get(hashes)[:, 1:])
    shards = sorted((path / "shards").iterdir())
    assert select_questions(desk / "store", ["coherence"], [samples], desk / "stores") == path
    assert sorted((path / "shards").iterdir()) == shards
    assert select_questions(desk / "store", ["meaning"], [samples], desk / "stores") != path


def test_images_of_every_data_set_are_copied(tmp_path: Path) -> None:
    """Those of `also` were not, and the training stopped at the first of them."""
    desk = bench_desk.write(tmp_path)
    sets = [
        registry.load(desk / f"{name}.csv", desk, TableColumns("image", "score", "prompt"))
        for name in "ab"
    ]
    part = FeatureStore.open(select_questions(desk / "store", ["coherence"], sets, desk / "stores"))
    whole = FeatureStore.open(desk / "store")
    for samples in sets:
        hashes = hash_files(samples.path)
        assert torch.equal(part.get(hashes), whole.get(hashes)[:, 1:])


@pytest.mark.parametrize("name", ["plain", "alignment"])
def test_questions_that_quote_prompts_are_found_by_the_prompt_too(
    tmp_path: Path, name: str
) -> None:
    """Vectors were looked for by the image alone: "no vectors", of any question of the store."""
    desk = bench_desk.write(tmp_path)
    samples = registry.load(desk / "a.csv", desk, TableColumns("image", "score", "prompt"))
    questions = (Question("plain", "Good?"), Question("alignment", "Does it show {prompt}?"))
    header = Header(encoder=bench_desk.ENCODER, width=3, questions=questions)
    store = FeatureStore.create(desk / "quoting", header)
    vectors = torch.randn(len(samples), 2, 3).half()
    with store.writer() as writer:
        for key, both in zip(keys_of(store, samples), vectors, strict=True):
            writer.add(key, both)
    path = select_questions(desk / "quoting", [name], [samples], desk / "stores")
    found = vectors_of(FeatureStore.open(path), samples)
    assert found is not None
    column = [question.name for question in questions].index(name)
    assert torch.equal(found[:, 0], vectors[:, column])


def test_an_image_without_vectors_is_an_error(tmp_path: Path) -> None:
    desk = bench_desk.write(tmp_path)
    (desk / "a/3.png").write_bytes((desk / "a/4.png").read_bytes() + b"more")
    samples = registry.load(desk / "a.csv", desk, TableColumns("image", "score", "prompt"))
    with pytest.raises(FeatureError, match="no vectors of 1 images"):
        select_questions(desk / "store", ["coherence"], [samples], desk / "stores")
