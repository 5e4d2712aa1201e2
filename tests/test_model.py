"""The network on a tiny configuration: every stage, its identities, its refusals."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ma_agiqa import load
from ma_agiqa.config import ModelConfig, Preprocess
from ma_agiqa.errors import FeatureError, ImageError, MissingExtraError, UsageError
from ma_agiqa.models import checkpoint
from ma_agiqa.models.mixture import GatedMixture
from ma_agiqa.models.paper.model import MAAGIQA
from ma_agiqa.models.prediction import Prediction
from ma_agiqa.models.preprocess import prepare
from ma_agiqa.types import Scale
from support.official_network import TINY, stages_of, tiny_inputs, tiny_model

pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")

GOLDEN = np.load(Path(__file__).parent / "golden" / "tiny_network.npz")


@pytest.fixture(scope="module")
def model() -> MAAGIQA:
    return tiny_model()


def score(model: MAAGIQA, *inputs: Tensor | None) -> Prediction:
    with torch.inference_mode():
        return model(*(inputs or tiny_inputs()))


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=str)
def outputs(request: pytest.FixtureRequest) -> tuple[torch.dtype, dict[str, Tensor]]:
    dtype: torch.dtype = request.param
    network = tiny_model().to(dtype)
    with torch.inference_mode(), stages_of(network) as stages:
        images, semantics = (value.to(dtype) for value in tiny_inputs())
        prediction = network(images, semantics)
    said = prediction._asdict().items()
    named = {f"prediction.{name}": value.detach() for name, value in said if value is not None}
    return dtype, {**stages, **named}


@pytest.mark.parametrize("name", GOLDEN.files)
def test_stage_is_as_recorded(outputs: tuple[torch.dtype, dict[str, Tensor]], name: str) -> None:
    dtype, values = outputs
    recorded = GOLDEN[name].astype(np.float64)
    # float64: the file's float32 rounding, 2**-24 of the largest value.
    # float32: a hundred roundings on the way; measured below 4e-6 of the largest value.
    bound = {torch.float64: 1e-7, torch.float32: 2e-5}[dtype] * np.abs(recorded).max()
    np.testing.assert_allclose(values[name].double().numpy(), recorded, rtol=0, atol=bound)


def test_bfloat16_autocast_agrees(model: MAAGIQA) -> None:
    exact = score(model).score
    with torch.autocast("cpu", torch.bfloat16):
        half = score(model).score
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    # bfloat16 keeps 8 bits, 0.4 % a step; errors of many rounded sums partly cancel
    torch.testing.assert_close(half, exact, rtol=0, atol=0.02 * exact.std().item())


def test_recording_covers_every_stage(outputs: tuple[torch.dtype, dict[str, Tensor]]) -> None:
    assert set(GOLDEN.files) == set(outputs[1])


@pytest.mark.parametrize("gate", ["linear", "softmax"])
@pytest.mark.parametrize("semantics", [0, 1, 2, 3])
def test_contributions_and_bias_sum_to_the_score(semantics: int, gate: str) -> None:
    torch.manual_seed(0)
    model = MAAGIQA(**{**TINY, "semantics": semantics, "gate": gate}).eval()
    images = tiny_inputs(3)[0]
    vectors = torch.randn(3, semantics, 12) if semantics else None
    said = score(model, images, vectors)
    assert said.contributions.shape == said.gate.shape == (3, semantics + 1)
    # float32: sums of 64 products of order one, each rounded at 6e-8
    torch.testing.assert_close(said.contributions.sum(1) + said.bias, said.score, atol=1e-5, rtol=0)
    by_patch = said.contribution_map.sum((1, 2)) + said.map_constant
    torch.testing.assert_close(by_patch, said.contributions[:, -1], atol=1e-5, rtol=0)


def test_gate_has_no_softmax() -> None:
    mixture = GatedMixture(experts=2, width=3)
    evidence = torch.randn(4, 2, 3)
    expected = evidence.flatten(1) @ mixture.gate.weight.T + mixture.gate.bias
    torch.testing.assert_close(mixture(evidence).gate, expected)


def test_without_a_gate_every_expert_weighs_the_same() -> None:
    mixture = GatedMixture(experts=3, width=4, gate="none")
    assert mixture.gate is None
    evidence = torch.randn(5, 3, 4)
    found = mixture(evidence)
    assert torch.equal(found.gate, torch.full((5, 3), 1 / 3))
    # Float32 sums in another order.
    torch.testing.assert_close(found.blend, evidence.mean(dim=1), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.score, mixture.readout(evidence.mean(dim=1)).squeeze(1))


def test_softmax_gate_is_a_share() -> None:
    gate = GatedMixture(experts=3, width=4, gate="softmax")(torch.randn(5, 3, 4)).gate
    assert (gate > 0).all()
    torch.testing.assert_close(gate.sum(1), torch.ones(5))


def test_unknown_gate_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match=r"unknown gate 'soft'.*linear, softmax"):
        GatedMixture(experts=2, width=3, gate="soft")


def test_mixture_of_one_has_no_gate() -> None:
    mixture = GatedMixture(experts=1, width=3)
    evidence = torch.randn(2, 1, 3)
    assert [name for name, _ in mixture.named_parameters()] == ["readout.weight", "readout.bias"]
    torch.testing.assert_close(mixture(evidence).score, mixture.readout(evidence[:, 0])[:, 0])


def test_experts_stand_in_the_order_meaning_coherence_visual() -> None:
    model = tiny_model()
    with torch.no_grad():  # a constant gate: each contribution depends on its own expert only
        model.mixture.gate.weight.zero_()
        model.mixture.gate.bias.fill_(1.0)
    images, semantics = tiny_inputs()
    before = score(model, images, semantics).contributions
    for k in (0, 1):
        changed = semantics.clone()
        changed[:, k] += 1.0
        after = score(model, images, changed).contributions
        assert (after != before).any(0).tolist() == [k == 0, k == 1, False]
    after = score(model, images.flip(3), semantics).contributions
    assert (after != before).any(0).tolist() == [False, False, True]


def test_patch_map_is_read_row_by_row(model: MAAGIQA) -> None:
    with stages_of(model) as stages:
        said = model(*tiny_inputs())
    assert said.contribution_map.shape == (2, 8, 8)
    readout = model.mixture.readout.weight[0]
    per_patch = readout @ model.visual_projection.weight[:, 8 + 2]
    expected = said.gate[:, -1] * per_patch * stages["patches"][:, 8 + 2]
    # The same three float32 factors, multiplied in another order.
    torch.testing.assert_close(said.contribution_map[:, 1, 2], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("shape", [(2, 3, 32, 40), (2, 3, 224, 224), (2, 1, 32, 32), (3, 32, 32)])
def test_images_of_another_shape_are_refused(model: MAAGIQA, shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"expected .*\(B, 3, 32, 32\), found \(\d+, "):
        model(torch.zeros(shape), torch.zeros(shape[0], 2, 12))


@pytest.mark.parametrize("shape", [(2, 1, 12), (2, 3, 12), (2, 2, 13), (1, 2, 12), (2, 24)])
def test_semantics_of_another_shape_are_refused(model: MAAGIQA, shape: tuple[int, ...]) -> None:
    with pytest.raises(FeatureError, match=r"expected .*\(2, 2, 12\), found shape \("):
        model(tiny_inputs()[0], torch.zeros(shape))


def test_missing_semantics_are_refused(model: MAAGIQA) -> None:
    with pytest.raises(FeatureError, match=r"\(2, 2, 12\), found none"):
        model(tiny_inputs()[0])


def test_semantics_for_a_visual_only_network_are_refused() -> None:
    with pytest.raises(FeatureError, match="expected no semantics"):
        tiny_model(semantics=0)(*tiny_inputs())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_refused_by_row(model: MAAGIQA, bad: float) -> None:
    images, semantics = tiny_inputs(3)
    semantics[1, 0, 5] = bad
    with pytest.raises(FeatureError, match=r"rows \[1\]"):
        model(images, semantics)


def test_unknown_argument_is_an_error() -> None:
    with pytest.raises(TypeError, match="heights"):
        MAAGIQA(**{**TINY, "heights": 3})
    with pytest.raises(TypeError, match="window_size"):
        MAAGIQA(visual={"window_size": 4})


def test_grid_must_divide_into_windows() -> None:
    with pytest.raises(ValueError, match="a grid of 8 does not divide into windows of 3"):
        MAAGIQA(**{**TINY, "visual": {**TINY["visual"], "window": 3}})


@pytest.mark.parametrize("taps", [[], [2, 1], [1, 1], [-1]])
def test_taps_must_ascend(taps: list[int]) -> None:
    with pytest.raises(ValueError, match="taps must be ascending"):
        MAAGIQA(**{**TINY, "visual": {**TINY["visual"], "taps": taps}})


def test_arguments_survive_json(model: MAAGIQA) -> None:
    again = MAAGIQA(**json.loads(json.dumps(TINY)))
    again.load_state_dict(model.state_dict())
    assert torch.equal(score(again.eval()).score, score(model).score)


def test_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)
    with pytest.raises(MissingExtraError, match=r"timm.*\[paper\]"):
        MAAGIQA(**TINY)


def test_blocks_after_the_last_tap_are_not_built(model: MAAGIQA) -> None:
    vit = model.visual.backbone.vit
    assert len(vit.blocks) == 3
    assert not list(vit.norm.parameters()) + list(vit.head.parameters())


def test_state_holds_parameters_only(model: MAAGIQA) -> None:
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("semantics", [0, 2])
def test_every_parameter_gets_a_gradient(semantics: int) -> None:
    model = tiny_model(semantics=semantics)
    images, vectors = tiny_inputs()
    model(images, vectors if semantics else None).score.sum().backward()
    untouched = [n for n, p in model.named_parameters() if p.grad is None]
    # a key's bias shifts whole rows of the softmax: its gradient exists but is zero
    zero = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    assert untouched == []
    assert all(name.endswith("key.bias") for name in zero)


def test_score_is_differentiable_in_the_image(model: MAAGIQA) -> None:
    images, semantics = tiny_inputs()
    images.requires_grad_()
    model(images, semantics).score[0].backward()
    assert images.grad is not None
    assert images.grad[0].abs().sum() > 0
    assert not images.grad[1].any()


def test_score_does_not_depend_on_batch_or_order(model: MAAGIQA) -> None:
    images, semantics = tiny_inputs(5)
    together = score(model, images, semantics).score
    alone = [score(model, images[i : i + 1], semantics[i : i + 1]).score for i in range(5)]
    turned = score(model, images.flip(0), semantics.flip(0)).score.flip(0)
    # matmuls of another shape add in another order: float32 rounding
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    torch.testing.assert_close(together, turned, atol=1e-5, rtol=0)


def test_two_threads_get_the_same_bits(model: MAAGIQA) -> None:
    inputs = [tiny_inputs(), tuple(value.flip(0) for value in tiny_inputs())]
    alone = [score(model, *pair) for pair in inputs]
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda i: (i % 2, score(model, *inputs[i % 2])), range(40)))
    for which, said in runs:
        for ours, theirs in zip(said, alone[which], strict=True):
            assert (ours is None and theirs is None) or torch.equal(ours, theirs)


def test_eval_is_deterministic_and_training_drops(model: MAAGIQA) -> None:
    assert torch.equal(score(model).score, score(model).score)
    training = tiny_model().train()
    torch.manual_seed(0)
    assert not torch.equal(score(training).score, score(training).score)


def test_channels_last_agrees(model: MAAGIQA) -> None:
    images, semantics = tiny_inputs()
    other = score(
        tiny_model().to(memory_format=torch.channels_last),
        images.to(memory_format=torch.channels_last),
        semantics,
    )
    # another convolution kernel: float32 rounding
    torch.testing.assert_close(other.score, score(model).score, atol=1e-5, rtol=0)


def test_bfloat16_autocast_agrees_and_scores_in_float32(model: MAAGIQA) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        half = score(model)
    exact = score(model)
    assert half.score.dtype == torch.float32
    # bfloat16 keeps 8 bits, 0.4 % a step; eight seeds differed by at most 0.02 of this scale
    scale = exact.contributions.abs().max().item()
    torch.testing.assert_close(half.score, exact.score, atol=0.05 * scale, rtol=0)


def test_network_is_one_graph_and_the_graph_agrees(model: MAAGIQA) -> None:
    torch.compiler.reset()
    captured = torch.compile(model, fullgraph=True, backend="aot_eager")
    # decompositions round elsewhere
    torch.testing.assert_close(score(captured).score, score(model).score, atol=1e-5, rtol=0)


def test_visual_only_network_scores_pictures_through_the_scorer(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="the paper's resize needs the extra `paper`")
    visual = {**TINY["visual"], "image_size": 224, "patch_size": 28}
    network = {**TINY, "semantics": 0, "visual": visual}
    model = tiny_model(**network)
    config = ModelConfig(
        name="tiny",
        architecture="ma-agiqa",
        network=network,
        preprocess=Preprocess(kind="paper"),
        scale=Scale(low=0, high=5),
    )
    checkpoint.save(tmp_path / "model", model, config, card="tiny")
    rgb = np.random.default_rng(0).integers(0, 256, (100, 180, 3), dtype=np.uint8)
    expected = score(model, prepare(rgb, config.preprocess)[None]).score.item()
    explained = load(tmp_path / "model", device="cpu")(rgb, explain=True)
    assert explained.score == pytest.approx(expected, abs=1e-5)
    assert explained.contributions is not None
    assert list(explained.contributions) == ["visual", "bias"]
    assert sum(explained.contributions.values()) == pytest.approx(expected, abs=1e-5)
    assert explained.contribution_map is not None
    assert explained.contribution_map.shape == (8, 8)
