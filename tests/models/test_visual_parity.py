"""The network gives the official code's numbers, stage by stage, value by value.

Recorded runs: `tame`, well conditioned, in float32 and float64, and `plain`, chaotic in
float32 and therefore compared in float64 only. Each is run once here, in train mode with
every dropout at 0, which gives the stages and the loss; `tame` in float64, where a difference
shows five digits earlier, gives the gradients too.
Tolerances are the fixtures' own (`tolerance` in their JSON): ten times the noise that was
measured on the official code between precisions or under a rounding-sized change of input.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from ma_agiqa.cli.models import convert as convert_command
from ma_agiqa.models import checkpoint
from ma_agiqa.models.paper.convert import convert, official_name
from ma_agiqa.models.paper.model import MAAGIQA
from ma_agiqa.models.prediction import Prediction
from support import official_network, reference

pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")
pytestmark = pytest.mark.timeout(1200)  # the full network in float64, on a machine that is busy


class Case(NamedTuple):
    fixture: str
    dtype: torch.dtype
    forward: float  # of an array's standard deviation
    gradient_norm: float | None  # relative; None where gradients are not computed


CASES = {
    "tame-float32": Case("ma_agiqa_head_tame", torch.float32, 1e-4, None),
    "tame-float64": Case("ma_agiqa_head_tame", torch.float64, 1e-9, 1e-8),
    "plain-float64": Case("ma_agiqa_head", torch.float64, 1e-6, None),
}

NO_DROPOUT = {"dropout": 0.0, "visual": {"dropout": 0.0, "drop_path": 0.0}}

STAGES = {
    "vit_block6": "block6",
    "vit_block7": "block7",
    "vit_block8": "block8",
    "vit_block9": "block9",
    "tablock1_0": "stage1.attention0",
    "tablock1": "stage1.attention1",
    "conv1": "stage1.reduced",
    "swin1": "stage1.windowed",
    "tablock2": "stage2.attention1",
    "conv2": "stage2.reduced",
    "swin2": "stage2.windowed",
    "s": "quality",
    "w": "weight",
    "key_before": "patches",
    "query1": "evidence",
    "query2": "evidence",
    "key_after": "evidence",
    "gating": "gate",
    "mixed": "blend",
}
"""Name in the fixture -> our name of the same stage."""


class Run(NamedTuple):
    case: Case
    recorded: dict[str, np.ndarray]
    stages: dict[str, Tensor]
    score: Tensor
    loss: Tensor
    model: MAAGIQA


def load_model(fixtures: Path, fixture: str, *, network: dict | None = None) -> MAAGIQA:
    gains = json.loads((fixtures / f"{fixture}.json").read_text())["gains"]
    return convert(official_network.official_state(fixtures, gains=gains), network=network)[0]


@pytest.fixture(scope="session", params=CASES)
def run(request: pytest.FixtureRequest, fixtures: Path) -> Run:
    case = CASES[request.param]
    prefix = "" if case.dtype == torch.float32 else "f64/"
    with np.load(fixtures / f"{case.fixture}.npz") as file:
        recorded = {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}
        target = torch.from_numpy(file["train/target"]).to(case.dtype)
        recorded["train/grad_names"] = file["train/grad_names"]
    model = load_model(fixtures, case.fixture, network=NO_DROPOUT).to(case.dtype).train()
    with_gradients = torch.set_grad_enabled(case.gradient_norm is not None)
    with with_gradients, official_network.stages_of(model) as stages:
        score = model(
            official_network.images(2, 224).to(case.dtype),
            official_network.semantics().to(case.dtype),
        ).score
    loss = torch.nn.functional.mse_loss(score, target)
    if case.gradient_norm is not None:
        loss.backward()
    stages = {name: value.detach() for name, value in stages.items()}
    return Run(case, recorded, stages, score.detach(), loss.detach(), model)


def in_official_layout(name: str, ours: Tensor) -> np.ndarray:
    """Return our stage with the axes of the recorded one."""
    if name in ("conv1", "swin1", "conv2", "swin2"):
        ours = ours.transpose(1, 2)
    if name in ("query1", "query2", "key_after"):
        ours = ours[:, ("query1", "query2", "key_after").index(name)]
    return ours.double().numpy()


@pytest.mark.parametrize("name", STAGES)
def test_stage_equals_the_official_one(run: Run, name: str) -> None:
    ours = in_official_layout(name, run.stages[STAGES[name]])
    if name in run.recorded:
        theirs = run.recorded[name].astype(np.float64).reshape(ours.shape)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=run.case.forward * theirs.std())
        return
    std = float(run.recorded[f"{name}/std"])
    tolerance = run.case.forward * std
    assert ours.size == np.prod(run.recorded[f"{name}/shape"])
    sample = ours.reshape(-1)[:: int(run.recorded[f"{name}/stride"])][:64]
    np.testing.assert_allclose(sample, run.recorded[f"{name}/sample"], rtol=0, atol=tolerance)
    assert ours.mean() == pytest.approx(float(run.recorded[f"{name}/mean"]), abs=tolerance)
    assert ours.std() == pytest.approx(std, abs=tolerance)
    if name.startswith("vit"):
        for token, key in ((1, "token1_first8"), (-1, "last_token_first8")):
            theirs = run.recorded[f"{name}/{key}"]
            np.testing.assert_allclose(ours[:, token, :8], theirs, rtol=0, atol=tolerance)


def test_score_equals_the_official_one(run: Run) -> None:
    theirs = run.recorded["score"].reshape(-1)
    tolerance = run.case.forward * theirs.std()
    np.testing.assert_allclose(run.score.double().numpy(), theirs, rtol=0, atol=tolerance)


def test_loss_equals_the_official_one(run: Run) -> None:
    # d loss = 2 * error * d score: the score's tolerance grows by the error over the loss
    rtol = 2 * run.case.forward
    assert run.loss.item() == pytest.approx(float(run.recorded["train/loss"]), rel=rtol)


@pytest.mark.parametrize("run", ["tame-float64"], indirect=True)
def test_gradients_equal_the_official_ones(run: Run) -> None:
    assert run.case.gradient_norm is not None
    own = {official_name(name): value.grad for name, value in run.model.named_parameters()}
    norms, samples = run.recorded["train/grad_norms"], run.recorded["train/grad_sample"]
    names = run.recorded["train/grad_names"].tolist()
    for name, norm, sample in zip(names, norms, samples, strict=True):
        gradient = own[name].double().reshape(-1).numpy()
        assert np.linalg.norm(gradient) == pytest.approx(norm, rel=run.case.gradient_norm), name
        values = gradient[:: max(1, gradient.size // 16)][:16]
        # single entries carry the noise of the whole: ten times the norm's tolerance, of the rms
        tolerance = 10 * run.case.gradient_norm * norm / np.sqrt(gradient.size)
        theirs = sample[: values.size]
        np.testing.assert_allclose(values, theirs, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("run", ["tame-float64"], indirect=True)
def test_every_parameter_of_the_full_network_gets_a_gradient(run: Run) -> None:
    gradients = {name: p.grad for name, p in run.model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    # a key's bias shifts whole rows of the softmax: its gradient exists but is rounding only
    zero = [name for name, gradient in gradients.items() if not gradient.any()]
    assert all(name.endswith("key.bias") for name in zero), zero


class Scored(NamedTuple):
    model: MAAGIQA
    inputs: tuple[Tensor, Tensor]
    prediction: Prediction


@pytest.fixture(scope="session")
def scored(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """The `tame` network as it is used: a whole official checkpoint goes through
    `ma-agiqa convert`, the model directory is loaded and scores in eval mode."""
    folder = tmp_path_factory.mktemp("converted")
    gains = json.loads((fixtures / "ma_agiqa_head_tame.json").read_text())["gains"]
    torch.save(
        official_network.official_state(fixtures, gains=gains, dead=True), folder / "official.pt"
    )
    convert_command(folder / "official.pt", folder / "model")
    model, config = checkpoint.load(folder / "model")
    shutil.rmtree(folder)  # a gigabyte
    assert isinstance(model, MAAGIQA)
    assert config.preprocess.kind == "paper"
    inputs = (official_network.images(2, 224), official_network.semantics())
    with torch.inference_mode():
        return Scored(model, inputs, model(*inputs))


def test_network_has_the_live_parameters_and_no_other(fixtures: Path, scored: Scored) -> None:
    names = json.loads((fixtures / "ma_agiqa_state_dict.json").read_text())
    assert sum(p.numel() for p in scored.model.parameters()) == names["n_live"] == 121_211_958
    assert {official_name(name) for name in scored.model.state_dict()} == set(names["live"])


def test_eval_mode_scores_like_the_official_code(fixtures: Path, scored: Scored) -> None:
    with np.load(fixtures / "ma_agiqa_head_tame.npz") as recorded:
        theirs, gate = recorded["score"].reshape(-1), recorded["gating"]
    tolerance = CASES["tame-float32"].forward
    ours = scored.prediction
    np.testing.assert_allclose(ours.score, theirs, rtol=0, atol=tolerance * theirs.std())
    np.testing.assert_allclose(ours.gate, gate, rtol=0, atol=tolerance * gate.std())


def test_score_splits_over_experts_and_patches(scored: Scored) -> None:
    said = scored.prediction
    # float32 sums of 784 terms of a score of a few units
    tolerance = {"atol": 1e-5 * said.contributions.abs().max().item(), "rtol": 0}
    torch.testing.assert_close(said.contributions.sum(1) + said.bias, said.score, **tolerance)
    by_patch = said.contribution_map.sum((1, 2)) + said.map_constant
    torch.testing.assert_close(by_patch, said.contributions[:, 2], **tolerance)


def test_score_does_not_depend_on_the_batch(scored: Scored) -> None:
    with torch.inference_mode():
        alone = scored.model(*(value[1:] for value in scored.inputs)).score
    together = scored.prediction.score
    # float32 rounding in matmuls of another shape, relative to scores of a few units
    scale = together.abs().max().item()
    assert alone.item() == pytest.approx(together[1].item(), abs=1e-5 * scale)


def test_weight_rule_gives_the_recorded_bits(fixtures: Path) -> None:
    for probe in json.loads((fixtures / "weight_rule_probe.json").read_text())["probes"]:
        values = reference.weight(
            probe["name"],
            tuple(probe["shape"]),
            seed=probe["SEED"],
            norm=probe["norm_weight"],
            gain=probe["gain"],
        )
        assert values.reshape(-1)[:4].tolist() == probe["first4"]
        assert hashlib.sha256(values.tobytes()).hexdigest() == probe["sha256_float32_le"]


def test_input_rule_gives_the_recorded_bits(fixtures: Path) -> None:
    recorded = json.loads((fixtures / "ma_agiqa_head.json").read_text())["inputs"]["sha256"]
    inputs = {
        "images": official_network.images(2, 224),
        "tensor1": official_network.semantic_vector("tensor1", 2, 4096),
        "tensor2": official_network.semantic_vector("tensor2", 2, 4096),
    }
    assert {
        name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in inputs.items()
    } == recorded
