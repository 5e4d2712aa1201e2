"""A store of some of another's questions holds their vectors as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ma_agiqa.bench.models import select_questions
from ma_agiqa.data import datasets as registry
from ma_agiqa.data.samples import TableColumns
from ma_agiqa.errors import FeatureError
from ma_agiqa.features.source import hash_files
from ma_agiqa.features.store import FeatureStore
from support import bench_desk


def test_a_store_of_some_questions_has_the_same_vectors_and_encoder_and_is_made_once(
    tmp_path: Path,
) -> None:
    desk = bench_desk.write(tmp_path)
    samples = registry.load(desk / "a.csv", desk, TableColumns("image", "score", "prompt"))
    path = select_questions(desk / "store", ["coherence"], samples, desk / "stores")
    whole, part = FeatureStore.open(desk / "store"), FeatureStore.open(path)
    assert part.header.encoder == whole.header.encoder
    assert [question.name for question in part.header.questions] == ["coherence"]
    hashes = hash_files(samples.path)
    assert torch.equal(part.get(hashes), whole.get(hashes)[:, 1:])
    shards = sorted((path / "shards").iterdir())
    assert select_questions(desk / "store", ["coherence"], samples, desk / "stores") == path
    assert sorted((path / "shards").iterdir()) == shards
    assert select_questions(desk / "store", ["meaning"], samples, desk / "stores") != path


def test_an_image_without_vectors_is_an_error(tmp_path: Path) -> None:
    desk = bench_desk.write(tmp_path)
    (desk / "a/3.png").write_bytes((desk / "a/4.png").read_bytes() + b"more")
    samples = registry.load(desk / "a.csv", desk, TableColumns("image", "score", "prompt"))
    with pytest.raises(FeatureError, match="no vectors of 1 images"):
        select_questions(desk / "store", ["coherence"], samples, desk / "stores")
