"""The metric: the scorer's mean, over batches and processes; never a mean of bad images."""

from __future__ import annotations

import importlib
import inspect
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch

from ma_agiqa.errors import ImageError, MissingExtraError, UsageError
from ma_agiqa.scorer import load

pytest.importorskip("torchmetrics", reason="needs the extra `metrics`")
import torchmetrics

from ma_agiqa.integrations.torchmetrics import AIImageQuality

TOLERANCE = 1e-5  # sums of the same scores in another order


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Five pictures from smooth to noisy, uint8, (5, 3, 40, 48)."""
    return make_pictures()


def make_pictures() -> torch.Tensor:
    torch.manual_seed(0)
    ramp = torch.linspace(40, 200, 48).expand(3, 40, 48)
    noisy = [ramp + strength * torch.randn(3, 40, 48) for strength in (0, 5, 15, 30, 60)]
    return torch.stack(noisy).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def expected(pictures: torch.Tensor) -> list[float]:
    return [float(score) for score in load(device="cpu").score(pictures)]


@pytest.fixture
def metric() -> AIImageQuality:
    return AIImageQuality()


def test_the_value_is_the_mean_of_the_scorers_scores(
    metric: AIImageQuality, pictures: torch.Tensor, expected: list[float]
) -> None:
    assert np.ptp(expected) > 0.1
    metric.update(pictures[:3])
    metric.update(pictures[3:] / 255)
    assert metric.compute().item() == pytest.approx(np.mean(expected), abs=TOLERANCE)
    assert metric.compute().shape == ()
    metric.reset()
    metric.update(pictures[:1])
    assert metric.compute().item() == pytest.approx(expected[0], abs=TOLERANCE)


def test_a_list_may_hold_images_of_any_sizes(
    metric: AIImageQuality, pictures: torch.Tensor
) -> None:
    images = [pictures[0], pictures[1][:, :33], pictures[2][:, :, :40] / 255]
    metric.update(images)
    scores = [float(score) for score in load(device="cpu").score(images)]
    assert metric.compute().item() == pytest.approx(np.mean(scores), abs=TOLERANCE)


def test_forward_gives_the_batchs_value_with_a_gradient_and_accumulates(
    metric: AIImageQuality, pictures: torch.Tensor, expected: list[float]
) -> None:
    assert metric.is_differentiable
    assert metric.higher_is_better
    metric.update(pictures[:2])
    images = (pictures[2:] / 255).requires_grad_()
    value = metric(images)
    assert value.item() == pytest.approx(np.mean(expected[2:]), abs=TOLERANCE)
    value.backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert images.grad.abs().sum() > 0
    total = metric.compute()
    assert total.item() == pytest.approx(np.mean(expected), abs=TOLERANCE)
    assert not total.requires_grad


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.full((1, 3, 40, 48), torch.nan), r"image\[0\]: has values from nan"),
        (torch.zeros(1, 1, 40, 48), r"has shape \(1, 1, 40, 48\)"),
        (torch.zeros(2, 3, 40, 16), "16x40 pixels is too small"),
        ([torch.zeros(3, 40, 48), torch.zeros(3, 8, 8)], r"image\[1\]: 8x8 pixels is too small"),
        ([torch.zeros(40, 48)], r"image\[0\]: has shape \(1, 40, 48\)"),
    ],
)
def test_bad_images_are_refused_and_leave_the_mean_alone(
    bad: torch.Tensor,
    message: str,
    metric: AIImageQuality,
    pictures: torch.Tensor,
    expected: list[float],
) -> None:
    metric.update(pictures)
    with pytest.raises(ImageError, match=message):
        metric.update(bad)
    assert metric.compute().item() == pytest.approx(np.mean(expected), abs=TOLERANCE)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_mean_of_no_images_is_an_error(metric: AIImageQuality) -> None:
    with pytest.raises(UsageError, match="a mean of no images"):
        metric.compute()
    metric.update([])
    with pytest.raises(UsageError, match="a mean of no images"):
        metric.compute()


def test_it_can_be_pickled_and_plotted(metric: AIImageQuality, pictures: torch.Tensor) -> None:
    mpl.use("Agg")
    metric.update(pictures[:2])
    copy = pickle.loads(pickle.dumps(metric))
    copy.update(pictures[2:3])
    assert copy.count.item() == 3
    figure, axes = copy.plot()
    (line,) = axes.get_lines()
    assert line.get_ydata()[0] == pytest.approx(copy.compute().item())
    mpl.pyplot.close(figure)


def test_it_takes_what_every_metric_takes_and_passes_it_on() -> None:
    own = inspect.signature(AIImageQuality).parameters
    theirs = set(
        re.findall(r'kwargs\.pop\("(\w+)"', inspect.getsource(torchmetrics.Metric.__init__))
    )
    assert set(own) == {"model", *theirs}
    plain = torchmetrics.MeanMetric()
    metric = AIImageQuality()
    given: dict[str, Any] = {
        "compute_on_cpu": True,
        "dist_sync_on_step": True,
        "process_group": "group",
        "dist_sync_fn": max,
        "distributed_available_fn": bool,
        "sync_on_compute": False,
        "compute_with_cache": False,
    }
    other = AIImageQuality(**given)
    for name in theirs:
        assert getattr(metric, name) == getattr(plain, name), f"default of {name}"
        assert getattr(other, name) == given[name], name
    with pytest.raises(TypeError, match="sync_on_comput"):
        AIImageQuality(sync_on_comput=False)  # type: ignore[call-arg]


def _one_of_two(rank: int, folder: str) -> None:
    """Score three pictures or two; write the value that this process sees."""
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    metric, pictures = AIImageQuality(), make_pictures()
    metric.update(pictures[:3] if rank == 0 else pictures[3:])
    value = metric.compute()
    assert metric.count.item() == (3 if rank == 0 else 2)  # its own again
    Path(folder, f"{rank}.txt").write_text(repr(value.item()))
    torch.distributed.destroy_process_group()


def test_two_processes_agree_on_the_mean_over_all_images(
    tmp_path: Path, expected: list[float]
) -> None:
    torch.multiprocessing.spawn(_one_of_two, args=(str(tmp_path),), nprocs=2)
    values = [float((tmp_path / f"{rank}.txt").read_text()) for rank in range(2)]
    assert values == pytest.approx([np.mean(expected)] * 2, abs=TOLERANCE)


def test_without_torchmetrics_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "ma_agiqa.integrations.torchmetrics")
    with pytest.raises(MissingExtraError, match=r"'torchmetrics'.*\[metrics\]"):
        importlib.import_module("ma_agiqa.integrations.torchmetrics")
