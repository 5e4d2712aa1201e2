"""The nodes for ComfyUI, run as its executor runs them, by the published interface."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import REPOSITORY
from ma_agiqa.errors import ImageError
from ma_agiqa.gallery.picture import map_ends, overlay
from ma_agiqa.scorer import Scorer, load
from support import comfy_api

FOLDER = REPOSITORY / "integrations/comfyui"
Nodes = dict[str, type[comfy_api.ComfyNode]]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    pack = comfy_api.install(monkeypatch, FOLDER)
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS"), "the old interface must not be mixed in"
    found = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    return {node.define_schema().node_id.removeprefix("MAAGIQA_"): node for node in found}


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return load(device="cpu")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Four pictures, from noisy to smooth and back, uint8, (4, 48, 64, 3)."""
    rng = np.random.default_rng(0)
    ramp = np.tile(np.linspace(40, 200, 64)[:, None], (48, 1, 3))
    noisy = [ramp + strength * rng.normal(size=ramp.shape) for strength in (60, 4, 0, 20)]
    return np.stack(noisy).clip(0, 255).astype(np.uint8)


@pytest.fixture
def images(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).float() / 255


@pytest.fixture(scope="module")
def scores(scorer: Scorer, pixels: np.ndarray) -> list[float]:
    found = [float(score) for score in scorer.score(pixels)]
    assert np.ptp(found) > 0.1
    return found


def test_the_ids_of_nodes_are_for_ever(nodes: Nodes) -> None:
    assert list(nodes) == ["Score", "HeatMap", "Threshold", "BestK"]
    for node in nodes.values():
        schema = node.define_schema()
        assert schema.category == "image/quality"
        assert schema.description
        assert "Quality" in schema.display_name


def test_score_passes_pictures_on_with_the_scorers_scores(
    nodes: Nodes, images: torch.Tensor, scores: list[float]
) -> None:
    (same,), values, (text,) = comfy_api.run(nodes["Score"], images=[images])
    assert same is images
    assert values == pytest.approx(scores)
    lines = text.splitlines()
    starts = [line.split(" ")[:2] for line in lines]
    assert starts == [[f"{n}:", f"{v:.2f}"] for n, v in enumerate(scores, 1)]


def test_values_beyond_white_and_alpha_count_as_they_would_be_saved(
    nodes: Nodes, images: torch.Tensor, scorer: Scorer
) -> None:
    bright = images * 1.5
    _, values, _ = comfy_api.run(nodes["Score"], images=[bright])
    assert values == pytest.approx(
        [float(s) for s in scorer.score(bright.clamp(0, 1).movedim(-1, 1))]
    )
    alpha = torch.ones(1, 48, 64, 1)
    alpha[:, :, 32:] = 0
    rgba = torch.cat([images[:1], alpha], dim=-1)
    expected = scorer(Image.fromarray((rgba[0] * 255).round().numpy().astype(np.uint8))).score
    _, values, _ = comfy_api.run(nodes["Score"], images=[rgba])
    assert values == pytest.approx([expected])


def broken(images: torch.Tensor) -> torch.Tensor:
    """Return the batch with NaN in its second picture, as a VAE in half precision leaves it."""
    images = images.clone()
    images[1, 3, 4] = torch.nan
    return images


def test_a_picture_with_nan_has_no_score_and_harms_no_other(
    nodes: Nodes, images: torch.Tensor, scores: list[float]
) -> None:
    _, values, (text,) = comfy_api.run(nodes["Score"], images=[broken(images)])
    assert math.isnan(values[1])
    assert values[:1] + values[2:] == pytest.approx(scores[:1] + scores[2:])
    assert text.splitlines()[1].startswith("2: no score: has values from nan to nan")
    best, values = comfy_api.run(nodes["BestK"], images=[broken(images)], k=[4])
    assert len(best[0]) == len(values) == 3
    _, (rejected,) = comfy_api.run(nodes["Threshold"], images=[broken(images)], least=[-9.0])
    assert len(rejected) == 1
    with pytest.raises(ImageError, match=r"image\[1\]: has values from nan"):
        comfy_api.run(nodes["HeatMap"], images=[broken(images)])


def test_threshold_splits_a_batch_and_keeps_its_order(
    nodes: Nodes, images: torch.Tensor, scores: list[float]
) -> None:
    least = sorted(scores)[2]  # a picture that has just this score passes
    (passed,), (rejected,) = comfy_api.run(nodes["Threshold"], images=[images], least=[least])
    assert torch.equal(passed, images[[score >= least for score in scores]])
    assert torch.equal(rejected, images[[score < least for score in scores]])
    assert len(passed) == len(rejected) == 2


@pytest.mark.parametrize(("least", "empty"), [(99.0, 0), (-99.0, 1)])
def test_what_follows_an_empty_side_does_not_run(
    nodes: Nodes, images: torch.Tensor, least: float, empty: int
) -> None:
    sides = comfy_api.run(nodes["Threshold"], images=[images], least=[least])
    assert torch.equal(sides[1 - empty][0], images)
    following: Any = comfy_api.run(nodes["BestK"], images=sides[empty])
    assert [type(value) for (value,) in following] == [comfy_api.ExecutionBlocker] * 2
    assert following[0][0].message is None  # no error is shown either


def test_a_list_of_batches_runs_batch_by_batch(nodes: Nodes, images: torch.Tensor) -> None:
    batches = [images[:2], images[2:, :40]]
    best, values = comfy_api.run(nodes["BestK"], images=batches)
    assert [one.shape for one in best] == [(1, 48, 64, 3), (1, 40, 64, 3)]
    assert len(values) == 2


def test_best_k_are_the_best_best_first(
    nodes: Nodes, images: torch.Tensor, scores: list[float]
) -> None:
    ranking = sorted(range(4), key=scores.__getitem__, reverse=True)
    (best,), values = comfy_api.run(nodes["BestK"], images=[images], k=[3])
    assert torch.equal(best, images[ranking[:3]])
    assert values == pytest.approx([scores[n] for n in ranking[:3]])
    small = images[:, :16]
    with pytest.raises(ImageError, match=r"no picture can be judged: .*too small"):
        comfy_api.run(nodes["BestK"], images=[small])


def test_the_heat_map_is_the_one_of_explain(
    nodes: Nodes, images: torch.Tensor, pixels: np.ndarray, scorer: Scorer
) -> None:
    ((maps,),) = comfy_api.run(nodes["HeatMap"], images=[images])
    assert maps.shape == images.shape
    for shown, rgb in zip(maps, pixels, strict=True):
        score = scorer(rgb, explain=True)
        assert score.map is not None
        expected = np.asarray(overlay(Image.fromarray(rgb), score.map, map_ends(score)))
        # Scored alone or in a batch, a colour may fall on the next of 256 levels.
        np.testing.assert_allclose(shown * 255, expected, rtol=0, atol=1.01)
