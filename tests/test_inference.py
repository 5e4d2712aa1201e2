"""The scorer: same score whatever the batch, order and workers; bad images become rows.

Most tests use a tiny random convolutional network, because what is tested is the scorer.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ma_agiqa import checkpoints, devices
from ma_agiqa.config import ModelConfig, Preprocess, TrainedOn
from ma_agiqa.errors import DataError, ImageError, ModelError, UsageError
from ma_agiqa.experts.convolutional import LocalQuality
from ma_agiqa.inference import Scorer, load
from ma_agiqa.types import Scale

TOLERANCE = 1e-4
"""What the project promises; float32 sums of another order differ by about 1e-6."""

TINY_COMPACT = {"widths": [4, 4, 8, 8], "depths": [1, 1, 1]}


class Bare(NamedTuple):
    score: Tensor


class TinyNetwork(nn.Module):
    """A convolution whose mean is the score; it notes the size of each batch it is given."""

    def __init__(self, *, maps: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.local = nn.Conv2d(3, 1, 5, stride=4)
        self.maps = maps
        self.batches: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> LocalQuality | Bare:
        self.batches.append(tuple(images.shape))
        quality = self.local(images).squeeze(1)
        weight = torch.full_like(quality, 1 / quality[0].numel())
        score = (quality * weight).sum((1, 2))
        return LocalQuality(score, quality, weight, images) if self.maps else Bare(score)


def make_config(**changes: object) -> ModelConfig:
    config = ModelConfig(
        name="tiny",
        architecture="convolutional",
        network={},
        preprocess=Preprocess("native", min_side=16, max_pixels=512 * 512),
        scale=Scale(0.0, 5.0),
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def make_scorer(network: nn.Module | None = None, **options: object) -> Scorer:
    return Scorer(network or TinyNetwork(), make_config(), device="cpu", **options)  # type: ignore[arg-type]


def noise(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return pixels.astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> list[Path]:
    """Twelve pictures of three sizes, interleaved."""
    sizes = itertools.cycle([(40, 48), (64, 32), (40, 48), (33, 57)])
    paths = []
    for seed, (height, width) in zip(range(12), sizes, strict=False):
        paths.append(tmp_path / f"{seed:02d}.png")
        Image.fromarray(noise(seed, height, width)).save(paths[-1])
    return paths


def values(scorer: Scorer, sources: list[Path]) -> list[float]:
    return [float(score) for score in scorer.score(sources)]


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (2, 3), (5, 2), (64, 4)])
def test_score_does_not_depend_on_batch_size_or_workers(
    folder: list[Path], batch_size: int, workers: int
) -> None:
    alone = [float(make_scorer()(path)) for path in folder]
    assert np.ptp(alone) > 100 * TOLERANCE  # else the comparison would show nothing
    together = values(make_scorer(batch_size=batch_size, workers=workers), folder)
    np.testing.assert_allclose(together, alone, rtol=0, atol=TOLERANCE)


def test_score_does_not_depend_on_order(folder: list[Path]) -> None:
    scorer = make_scorer(batch_size=4)
    backward = values(scorer, folder[::-1])
    np.testing.assert_allclose(backward[::-1], values(scorer, folder), rtol=0, atol=TOLERANCE)


def test_real_images_score_the_same_alone_and_in_batches(agiqa_3k: Path) -> None:
    generators = sorted((agiqa_3k / "images").iterdir())[::373]
    config = make_config(network=TINY_COMPACT)
    torch.manual_seed(0)
    network = checkpoints.build(config)
    alone = Scorer(network, config, device="cpu", batch_size=1, workers=1)
    together = Scorer(network, config, device="cpu", batch_size=3, workers=2)
    expected = values(alone, generators)
    np.testing.assert_allclose(values(together, generators), expected, rtol=0, atol=TOLERANCE)
    shuffled = values(together, generators[::-1])[::-1]
    np.testing.assert_allclose(shuffled, expected, rtol=0, atol=TOLERANCE)


def test_images_of_one_size_share_a_batch_though_others_lie_between(folder: list[Path]) -> None:
    network = TinyNetwork()
    list(make_scorer(network, batch_size=4).score(folder))
    assert network.batches[0] == (4, 3, 40, 48)
    assert sum(batch[0] for batch in network.batches) == len(folder)


def test_batches_are_the_same_in_every_run(folder: list[Path]) -> None:
    first, second = TinyNetwork(), TinyNetwork()
    list(make_scorer(first, batch_size=3, workers=1).score(folder))
    list(make_scorer(second, batch_size=3, workers=4).score(folder))
    assert first.batches == second.batches


def test_results_keep_input_order_and_name_their_image(folder: list[Path]) -> None:
    sources = [*folder[:3], noise(99), folder[3].read_bytes()]
    labels = [score.path for score in make_scorer(batch_size=2).score(sources)]
    assert labels == [*(str(path) for path in folder[:3]), "image[3]", "image[4]"]


def test_a_bad_image_becomes_a_row_with_the_reason(folder: list[Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    small = tmp_path / "small.png"
    Image.fromarray(noise(1, 1, 1)).save(small)
    missing = tmp_path / "missing.png"
    bad = [empty, text, small, missing, tmp_path]
    rows = list(make_scorer(batch_size=2).score([folder[0], *bad, folder[1]]))
    assert [row.path for row in rows] == [str(p) for p in [folder[0], *bad, folder[1]]]
    assert all(row.score is None and row.percentile is None and row.error for row in rows[1:-1])
    assert "1x1" in (rows[3].error or "")
    assert rows[0].error is None
    assert rows[-1].score == pytest.approx(float(make_scorer()(folder[1])), abs=TOLERANCE)


def test_a_file_that_vanishes_while_running_becomes_a_row(folder: list[Path]) -> None:
    results = make_scorer(batch_size=1, workers=1).score(folder)
    first = next(results)
    folder[-1].unlink()
    rows = [first, *results]
    assert [row.error is None for row in rows] == [True] * 11 + [False]
    assert "no such file" in (rows[-1].error or "")


def test_calling_the_scorer_on_a_bad_image_raises_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png"):
        make_scorer()(tmp_path / "gone.png")


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


def test_closing_the_iterator_ends_the_decoding_threads(folder: list[Path]) -> None:
    results = make_scorer(batch_size=2, workers=3).score(folder)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("ma-agiqa-decode")]


def test_decoding_runs_beside_the_network() -> None:
    """The third image can be read only while the network works on the first."""
    forward_began, third_read = threading.Event(), threading.Event()
    met = []

    class Waiting(TinyNetwork):
        def forward(self, images: Tensor) -> LocalQuality | Bare:
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


def test_an_error_of_the_source_comes_after_the_results_before_it(folder: list[Path]) -> None:
    def source() -> Iterator[Path]:
        yield from folder[:3]
        raise DataError("the list is damaged")

    results = make_scorer(batch_size=2).score(source())
    assert [row.error for row in itertools.islice(results, 3)] == [None] * 3
    with pytest.raises(DataError, match="the list is damaged"):
        next(results)


def test_two_threads_may_share_a_scorer(folder: list[Path]) -> None:
    scorer = make_scorer(batch_size=3, workers=2)
    expected = values(scorer, folder)
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: values(scorer, folder), range(4)))
    for run in runs:
        np.testing.assert_allclose(run, expected, rtol=0, atol=TOLERANCE)


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

    def forward(self, images: Tensor) -> LocalQuality | Bare:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(images)


def test_a_batch_too_large_for_memory_is_halved(folder: list[Path]) -> None:
    network = ShortOfMemory(room=1)
    got = values(make_scorer(network, batch_size=4), folder)
    assert {batch[0] for batch in network.batches} == {1}
    np.testing.assert_allclose(got, values(make_scorer(), folder), rtol=0, atol=TOLERANCE)


def test_an_image_too_large_for_memory_is_an_error_row(folder: list[Path]) -> None:
    rows = list(make_scorer(ShortOfMemory(room=0), batch_size=4).score(folder[:5]))
    assert ["not enough memory" in (row.error or "") for row in rows] == [True] * 5


def test_a_bug_in_the_network_is_not_hidden_in_a_row() -> None:
    class Broken(TinyNetwork):
        def forward(self, images: Tensor) -> LocalQuality | Bare:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(make_scorer(Broken()).score([noise(0)]))


def test_a_network_that_gives_another_number_of_scores_is_refused() -> None:
    class OneForAll(TinyNetwork):
        def forward(self, images: Tensor) -> Bare:
            return Bare(super().forward(images).score.mean())

    with pytest.raises(ModelError, match="expected"):
        list(make_scorer(OneForAll(), batch_size=2).score([noise(0), noise(1)]))


def test_maps_come_only_when_asked_for_and_add_up_to_the_score() -> None:
    scorer = make_scorer(batch_size=2)
    plain, asked = scorer(noise(0)), scorer(noise(0), explain=True)
    assert plain.quality_map is None
    assert plain.weight_map is None
    assert asked.quality_map is not None
    assert asked.weight_map is not None
    total = float((asked.quality_map * asked.weight_map).sum())
    assert total == pytest.approx(float(asked), abs=1e-5)  # float32 sum of a hundred places
    assert asked.contributions == {"visual": pytest.approx(float(asked))}
    assert asked.contribution_map is not None
    assert float(asked.contribution_map.sum()) == pytest.approx(float(asked), abs=1e-5)
    (row,) = scorer.score([noise(0)], explain=True)
    assert row.quality_map is not None
    np.testing.assert_allclose(row.quality_map, asked.quality_map, rtol=0, atol=1e-6)


def test_a_model_without_maps_scores_all_the_same() -> None:
    score = make_scorer(TinyNetwork(maps=False))(noise(0), explain=True)
    assert score.quality_map is None
    assert score.score is not None


def test_percentile_is_interpolated_between_the_training_quantiles() -> None:
    class Constant(TinyNetwork):
        def forward(self, images: Tensor) -> LocalQuality | Bare:
            return Bare(images[:, 0, 0, 0] * 5)

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


def test_quantiles_out_of_order_are_refused() -> None:
    trained = TrainedOn("made-up", "quality", "paper", 3, (0.0, 2.0, 1.0))
    with pytest.raises(ModelError, match="ascending"):
        Scorer(TinyNetwork(), make_config(trained_on=trained), device="cpu")


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


@pytest.mark.parametrize("single", ["a.png", b"bytes", Path("a.png")])
def test_a_single_image_in_place_of_many_is_refused_at_once(single: object) -> None:
    with pytest.raises(UsageError, match="iterable"):
        make_scorer().score(single)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}, {"batch_size": -1}])
def test_batch_size_and_workers_must_be_positive(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        make_scorer(**options)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_an_unusable_device_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}'"):
        devices.resolve(name)


def test_load_reads_a_model_directory(tmp_path: Path) -> None:
    config = make_config(network=TINY_COMPACT)
    network = checkpoints.build(config)
    checkpoints.save(tmp_path / "model", network, config, card="for a test")
    scorer = load(tmp_path / "model", device="cpu")
    expected = Scorer(network, config, device="cpu")(noise(3)).score
    # Loading may bring the network into a faster form, equal up to rounding.
    assert scorer(noise(3)).score == pytest.approx(expected, abs=TOLERANCE)
    assert not scorer.model.training


def test_load_of_an_unknown_name_lists_what_is_close() -> None:
    with pytest.raises(UsageError, match="compact"):
        load("compcat")
