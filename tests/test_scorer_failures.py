"""What the scorer makes of bad images, short memory, broken networks and wrong use."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ma_agiqa import devices
from ma_agiqa.errors import DataError, ImageError, ModelError, UsageError
from ma_agiqa.models.prediction import Prediction
from ma_agiqa.scorer import load
from support.tiny_scorer import (
    TOLERANCE,
    TinyNetwork,
    make_scorer,
    noise,
    values,
)


def test_a_bad_image_becomes_a_row_with_the_reason(twelve: list[Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    small = tmp_path / "small.png"
    Image.fromarray(noise(1, 1, 1)).save(small)
    missing = tmp_path / "missing.png"
    bad = [empty, text, small, missing, tmp_path]
    rows = list(make_scorer(batch_size=2).score([twelve[0], *bad, twelve[1]]))
    assert [row.path for row in rows] == [str(p) for p in [twelve[0], *bad, twelve[1]]]
    assert all(row.score is None and row.percentile is None and row.error for row in rows[1:-1])
    assert "1x1" in (rows[3].error or "")
    assert rows[0].error is None
    assert rows[-1].score == pytest.approx(float(make_scorer()(twelve[1])), abs=TOLERANCE)


def test_a_file_that_vanishes_while_running_becomes_a_row(twelve: list[Path]) -> None:
    results = make_scorer(batch_size=1, workers=1).score(twelve)
    first = next(results)
    twelve[-1].unlink()
    rows = [first, *results]
    assert [row.error is None for row in rows] == [True] * 11 + [False]
    assert "no such file" in (rows[-1].error or "")


def test_calling_the_scorer_on_a_bad_image_raises_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png"):
        make_scorer()(tmp_path / "gone.png")


def test_an_error_of_the_source_comes_after_the_results_before_it(twelve: list[Path]) -> None:
    def source() -> Iterator[Path]:
        yield from twelve[:3]
        raise DataError("the list is damaged")

    results = make_scorer(batch_size=2).score(source())
    assert [row.error for row in itertools.islice(results, 3)] == [None] * 3
    with pytest.raises(DataError, match="the list is damaged"):
        next(results)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_an_error(bad: float) -> None:
    network = TinyNetwork()
    with torch.no_grad():
        network.local.bias.fill_(bad)  # type: ignore[union-attr]
    (row,) = make_scorer(network).score([noise(0)])
    assert row.score is None
    assert "no finite score" in (row.error or "")
    with pytest.raises(ImageError, match="no finite score"):
        make_scorer(network)(noise(0))


class ShortOfMemory(TinyNetwork):
    """Fails as torch does when a batch holds more than `room` images."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def forward(self, images: Tensor) -> Prediction:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(images)


def test_a_batch_too_large_for_memory_is_halved(twelve: list[Path]) -> None:
    network = ShortOfMemory(room=1)
    got = values(make_scorer(network, batch_size=4), twelve)
    assert {batch[0] for batch in network.batches} == {1}
    np.testing.assert_allclose(got, values(make_scorer(), twelve), rtol=0, atol=TOLERANCE)


def test_an_image_too_large_for_memory_is_an_error_row(twelve: list[Path]) -> None:
    rows = list(make_scorer(ShortOfMemory(room=0), batch_size=4).score(twelve[:5]))
    assert ["not enough memory" in (row.error or "") for row in rows] == [True] * 5


def test_a_bug_in_the_network_is_not_hidden_in_a_row() -> None:
    class Broken(TinyNetwork):
        def forward(self, images: Tensor) -> Prediction:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(make_scorer(Broken()).score([noise(0)]))


def test_a_network_that_gives_another_number_of_scores_is_refused() -> None:
    class OneForAll(TinyNetwork):
        def forward(self, images: Tensor) -> Prediction:
            prediction = super().forward(images)
            return prediction._replace(score=prediction.score.mean())

    with pytest.raises(ModelError, match="expected"):
        list(make_scorer(OneForAll(), batch_size=2).score([noise(0), noise(1)]))


@pytest.mark.parametrize(
    "single",
    [
        "a.png",
        b"bytes",
        Path("a.png"),
        Image.new("RGB", (32, 32)),
        np.zeros((3, 32, 32), np.uint8),  # not three grey images
        torch.zeros(3, 32, 32),
    ],
)
def test_a_single_image_in_place_of_many_is_refused_at_once(single: object) -> None:
    with pytest.raises(UsageError, match="iterable"):
        make_scorer().score(single)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"workers": 0}, {"batch_size": -1}, {"batch_size": 1.5}, {"workers": "2"}],
)
def test_batch_size_and_workers_must_be_positive(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        make_scorer(**options)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_an_unusable_device_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}'"):
        devices.resolve(name)


def test_load_of_an_unknown_name_lists_what_is_close() -> None:
    with pytest.raises(UsageError, match="compact"):
        load("compcat")
