"""`compact`: two experts, a gate, exact contributions, any size."""

from __future__ import annotations

import pytest
import torch

from ma_agiqa.errors import ImageError
from ma_agiqa.models.compact.efficientnet_lite import normalise
from ma_agiqa.models.compact.model import CompactModel, content_view
from ma_agiqa.models.prediction import explanations


@pytest.fixture(scope="module")
def model() -> CompactModel:
    torch.manual_seed(0)
    model = CompactModel(width_factor=0.25)
    torch.nn.init.normal_(model.mixture.gate.weight, std=0.5)  # type: ignore[union-attr]
    torch.nn.init.normal_(model.distortion.weight.weight, std=0.5)
    return model.eval()


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_contributions_and_bias_sum_to_the_score_and_places_to_the_distortion_expert(
    model: CompactModel,
) -> None:
    said = model(images(3, 3, 64, 96))
    assert said.contributions.shape == said.gate.shape == (3, 2)
    # Float32 sums of about a hundred products of order one.
    torch.testing.assert_close(said.contributions.sum(1) + said.bias, said.score, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        said.contribution_map.sum((1, 2)), said.contributions[:, 1], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(said.weight_map.sum((1, 2)), torch.ones(3), rtol=0, atol=1e-5)


def test_the_quality_map_averages_to_the_score_and_names_its_experts(model: CompactModel) -> None:
    said = model(images(2, 3, 64, 96))
    for score, fields in zip(said.score.tolist(), explanations(said, model.experts), strict=True):
        assert list(fields["contributions"]) == ["content", "distortion", "bias"]
        mean = float((fields["quality_map"] * fields["weight_map"]).sum())
        assert mean == pytest.approx(score, abs=1e-4)


def test_scores_are_on_the_scale_asked_for(model: CompactModel) -> None:
    wide = CompactModel(width_factor=0.25, low=100.0, high=200.0).eval()
    wide.load_state_dict(model.state_dict())
    x = images(2, 3, 48, 48)
    torch.testing.assert_close(wide(x).score, 100 + 20 * model(x).score, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        wide(x).contribution_map, 20 * model(x).contribution_map, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("size", [(32, 32), (33, 57), (64, 48), (100, 31 + 8)])
def test_any_size_gives_one_place_for_8_by_8_pixels(
    model: CompactModel, size: tuple[int, int]
) -> None:
    rows, columns = (-(-side // 8) for side in size)
    assert model(images(1, 3, *size)).contribution_map.shape == (1, rows, columns)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 31, 64)])
def test_other_shapes_are_refused_with_what_was_found(
    model: CompactModel, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ImageError, match=str(shape[-2])):
        model(torch.rand(*shape))


def test_an_image_scores_the_same_in_any_batch(model: CompactModel) -> None:
    x = images(5, 3, 64, 64)
    alone = torch.cat([model(image[None]).score for image in x])
    # The contract is 1e-4; equal kernels on other batch sizes differ by rounding only.
    torch.testing.assert_close(model(x).score, alone, rtol=0, atol=1e-5)


def test_the_score_is_differentiable_in_the_image(model: CompactModel) -> None:
    x = images(2, 3, 64, 64).requires_grad_()
    model(x).score.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0


def test_every_parameter_earns_a_gradient() -> None:
    torch.manual_seed(1)
    model = CompactModel(width_factor=0.25).train()
    model(images(4, 3, 96, 96)).score.square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("size", [(512, 512), (1024, 768), (100, 50), (40, 2000)])
def test_the_content_expert_sees_one_area_whatever_the_size(size: tuple[int, int]) -> None:
    seen = content_view(images(1, 3, *size), side=256)
    height, width = seen.shape[2:]
    assert min(height, width) >= 32
    if max(size) / min(size) < 8:
        assert height * width == pytest.approx(256**2, rel=0.02)
        assert height / width == pytest.approx(size[0] / size[1], rel=0.02)
    assert 0 <= seen.min() < seen.max() <= 1


def test_readouts_of_several_data_sets_are_blended_by_likeness() -> None:
    torch.manual_seed(0)
    model = CompactModel(width_factor=0.25, readouts=3).eval()
    said = model(images(4, 3, 64, 64))
    assert said.scores.shape == said.likeness.shape == (4, 3)
    blended = (said.likeness.softmax(1) * said.scores).sum(1)
    # Float32 sums of about a hundred products of order one.
    torch.testing.assert_close(said.score, blended, rtol=0, atol=1e-5)
    torch.testing.assert_close(said.contributions.sum(1) + said.bias, said.score, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        said.contribution_map.sum((1, 2)), said.contributions[:, 1], rtol=0, atol=1e-5
    )


def test_calibration_standardises_the_statistics_of_content() -> None:
    torch.manual_seed(0)
    model = CompactModel(width_factor=0.25, content_side=64)
    shown = images(50, 3, 64, 64) ** images(50, 3, 1, 1, seed=1)
    before = model.content.scale.clone()
    model.calibrate(shown)
    with torch.inference_mode():
        statistics = model.content.statistics(normalise(shown))
    standard = (statistics - model.content.mean) * model.content.scale / before
    torch.testing.assert_close(standard.mean(0), torch.zeros(standard.shape[1]), rtol=0, atol=1e-3)
    varying = statistics.std(0) > 0.01  # of random weights, those of the first stages
    assert varying.any()
    torch.testing.assert_close(
        standard.std(0)[varying], torch.ones(int(varying.sum())), rtol=0, atol=0.1
    )


def test_depth_grows_towards_the_pixels() -> None:
    model = CompactModel(width_factor=0.25)
    depths = {name: model.depth_of(name) for name, _ in model.named_parameters()}
    assert {n for n, d in depths.items() if d == 0} == {n for n in depths if ".trunk." not in n}
    assert depths["distortion.trunk.stem.weight"] == 3
    assert depths["content.trunk.blocks.2.project.bias"] == 3
    assert depths["distortion.trunk.blocks.3.expand.weight"] == 1
    assert depths["content.trunk.blocks.3.expand.weight"] == 2
    assert depths["content.trunk.head.bias"] == 2


@pytest.mark.parametrize("wrong", [{"low": 5.0}, {"width_factor": 0.0}])
def test_impossible_networks_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        CompactModel(**wrong)
