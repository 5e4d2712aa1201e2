"""The scorer: same score whatever the batch, order and workers; rows in input order."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ma_agiqa.config import ScoreInterval, TrainedOn
from ma_agiqa.models import checkpoint
from ma_agiqa.models.prediction import Prediction
from ma_agiqa.scorer import Scorer, load
from support.tiny_scorer import (
    TINY_COMPACT,
    TOLERANCE,
    TinyNetwork,
    make_config,
    make_scorer,
    noise,
    predict,
    values,
)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (2, 3), (5, 2), (64, 4)])
def test_score_does_not_depend_on_batch_size_or_workers(
    twelve: list[Path], batch_size: int, workers: int
) -> None:
    alone = [float(make_scorer()(path)) for path in twelve]
    assert np.ptp(alone) > 100 * TOLERANCE  # else the comparison would show nothing
    together = values(make_scorer(batch_size=batch_size, workers=workers), twelve)
    np.testing.assert_allclose(together, alone, rtol=0, atol=TOLERANCE)


def test_score_does_not_depend_on_order(twelve: list[Path]) -> None:
    scorer = make_scorer(batch_size=4)
    backward = values(scorer, twelve[::-1])
    np.testing.assert_allclose(backward[::-1], values(scorer, twelve), rtol=0, atol=TOLERANCE)


def test_real_images_score_the_same_alone_and_in_batches(agiqa_3k: Path) -> None:
    generators = sorted((agiqa_3k / "images").iterdir())[::373]
    config = make_config(network=TINY_COMPACT)
    torch.manual_seed(0)
    network = checkpoint.build(config)
    alone = Scorer(network, config, device="cpu", batch_size=1, workers=1)
    together = Scorer(network, config, device="cpu", batch_size=3, workers=2)
    expected = values(alone, generators)
    np.testing.assert_allclose(values(together, generators), expected, rtol=0, atol=TOLERANCE)
    shuffled = values(together, generators[::-1])[::-1]
    np.testing.assert_allclose(shuffled, expected, rtol=0, atol=TOLERANCE)


def test_images_of_one_size_share_a_batch_though_others_lie_between(twelve: list[Path]) -> None:
    network = TinyNetwork()
    list(make_scorer(network, batch_size=4).score(twelve))
    assert network.batches[0] == (4, 3, 40, 48)
    assert sum(batch[0] for batch in network.batches) == len(twelve)


def test_batches_are_the_same_in_every_run(twelve: list[Path]) -> None:
    first, second = TinyNetwork(), TinyNetwork()
    list(make_scorer(first, batch_size=3, workers=1).score(twelve))
    list(make_scorer(second, batch_size=3, workers=4).score(twelve))
    assert first.batches == second.batches


def test_results_keep_input_order_and_name_their_image(twelve: list[Path]) -> None:
    sources = [*twelve[:3], noise(99), twelve[3].read_bytes()]
    labels = [score.path for score in make_scorer(batch_size=2).score(sources)]
    assert labels == [*(str(path) for path in twelve[:3]), "image[3]", "image[4]"]


def test_only_a_bounded_number_of_images_is_taken_ahead() -> None:
    taken = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal taken
        for seed in itertools.count():
            taken += 1
            yield noise(seed)

    results = make_scorer(batch_size=2, workers=2).score(source())
    assert taken == 0  # nothing happens before the first result is asked for
    for index in range(10):
        next(results)
        assert taken <= index + 3 * 2
    results.close()  # type: ignore[attr-defined]


def test_closing_the_iterator_ends_the_decoding_threads(twelve: list[Path]) -> None:
    results = make_scorer(batch_size=2, workers=3).score(twelve)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("ma-agiqa-decode")]


def test_decoding_runs_beside_the_network() -> None:
    """The third image can be read only while the network works on the first."""
    forward_began, third_read = threading.Event(), threading.Event()
    met = []

    class Waiting(TinyNetwork):
        def forward(self, images: Tensor) -> Prediction:
            forward_began.set()
            met.append(third_read.wait(timeout=10))
            return super().forward(images)

    def read(seed: int) -> np.ndarray:
        if seed == 2:
            met.append(forward_began.wait(timeout=10))
            third_read.set()
        return noise(seed)

    scorer = make_scorer(Waiting(), batch_size=1, workers=1)
    assert len(list(scorer.score(range(3), read=read))) == 3
    assert met == [True] * 4


def test_two_threads_may_share_a_scorer(twelve: list[Path]) -> None:
    scorer = make_scorer(batch_size=3, workers=2)
    expected = values(scorer, twelve)
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: values(scorer, twelve), range(4)))
    for run in runs:
        np.testing.assert_allclose(run, expected, rtol=0, atol=TOLERANCE)


def test_maps_come_only_when_asked_for_and_add_up_to_the_score() -> None:
    scorer = make_scorer(batch_size=2)
    plain, asked = scorer(noise(0)), scorer(noise(0), explain=True)
    assert plain.quality_map is None
    assert plain.weight_map is None
    assert asked.quality_map is not None
    assert asked.weight_map is not None
    total = float((asked.quality_map * asked.weight_map).sum())
    assert total == pytest.approx(float(asked), abs=1e-5)  # float32 sum of a hundred places
    assert asked.contributions == {"visual": pytest.approx(float(asked)), "bias": 0.0}
    assert asked.contribution_map is not None
    assert float(asked.contribution_map.sum()) == pytest.approx(float(asked), abs=1e-5)
    (row,) = scorer.score([noise(0)], explain=True)
    assert row.quality_map is not None
    np.testing.assert_allclose(row.quality_map, asked.quality_map, rtol=0, atol=1e-6)


def test_percentile_is_interpolated_between_the_training_quantiles() -> None:
    class Constant(TinyNetwork):
        def forward(self, images: Tensor) -> Prediction:
            return predict(images[:, 0, :1, :1] * 5)

    trained = TrainedOn("made-up", "quality", "paper", 3, (0.0, 1.0, 5.0))
    scorer = Scorer(Constant(), make_config(trained_on=trained), device="cpu")
    image = noise(0)
    for level, score, percentile in [(0, 0.0, 0.0), (51, 1.0, 50.0), (153, 3.0, 75.0)]:
        image[0, 0, 0] = level
        got = scorer(image)
        assert got.score == pytest.approx(score, abs=1e-6)
        assert got.percentile == pytest.approx(percentile, abs=1e-4)


def test_percentile_is_unknown_without_training_scores() -> None:
    assert make_scorer()(noise(0)).percentile is None


def test_an_interval_lies_around_the_score_and_within_the_scale() -> None:
    class Constant(TinyNetwork):
        def forward(self, images: Tensor) -> Prediction:
            return predict(images[:, 0, :1, :1] * 7 - 1)

    around = ScoreInterval(half_width=0.5, coverage=0.8, images=9)
    scorer = Scorer(Constant(), make_config(interval=around), device="cpu")
    image = noise(0)
    for level, ends in [(0, (0, 0)), (51, (0, 0.9)), (102, (1.3, 2.3)), (255, (5, 5))]:
        image[0, 0, 0] = level
        assert scorer(image).interval == pytest.approx(ends, abs=1e-6)
    (failed,) = scorer.score(["gone.png"])
    assert failed.error is not None
    assert failed.interval is None


def test_there_is_no_interval_where_the_model_does_not_say() -> None:
    assert make_scorer()(noise(0)).interval is None


def test_the_model_is_differentiable_in_the_image_after_scoring() -> None:
    scorer = make_scorer()
    scorer(noise(0))
    image = torch.rand(1, 3, 40, 48, requires_grad=True)
    scorer.model(image).score.sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0


def test_results_carry_scale_model_and_revision() -> None:
    score = make_scorer(revision="v2")(noise(0))
    assert (score.low, score.high, score.model) == (0.0, 5.0, "tiny@v2")


def test_load_reads_a_model_directory(tmp_path: Path) -> None:
    config = make_config(network=TINY_COMPACT)
    network = checkpoint.build(config)
    checkpoint.save(tmp_path / "model", network, config, card="for a test")
    scorer = load(tmp_path / "model", device="cpu")
    expected = Scorer(network, config, device="cpu")(noise(3)).score
    # Loading may bring the network into a faster form, equal up to rounding.
    assert scorer(noise(3)).score == pytest.approx(expected, abs=TOLERANCE)
    assert not scorer.model.training
