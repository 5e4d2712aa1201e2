"""What recipes promise: rates, groups, views, losses and where a network starts."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ma_agiqa.errors import ModelError, UsageError
from ma_agiqa.models.compact.model import CompactModel
from ma_agiqa.models.registry import ARCHITECTURES, MODELS
from ma_agiqa.training.loop import Learner, build_optimiser, learning_rate
from ma_agiqa.training.recipe import RECIPES, Recipe
from ma_agiqa.types import Scale


def test_the_paper_schedule_is_torchs_cosine_stepped_per_batch() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.Adam([weight], lr=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=50, eta_min=0)
    for step in range(250):
        own = learning_rate(RECIPES["paper"], step, 7800)
        # torch updates its rate recursively and gathers rounding errors on the way.
        assert own == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-10)
        optimiser.step()
        schedule.step()


def test_one_cycle_warms_up_and_ends_at_zero() -> None:
    recipe = Recipe(learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert max(rates) == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.001


def test_adam_decays_everything_and_adamw_only_matrices_and_kernels() -> None:
    model = CompactModel(width_factor=0.25)
    total = sum(p.numel() for p in model.parameters())
    adam = build_optimiser(Learner(model, None), RECIPES["paper"])
    assert isinstance(adam, torch.optim.Adam)
    assert {g["weight_decay"] for g in adam.param_groups} == {1e-5}
    adamw = build_optimiser(Learner(model, None), Recipe())
    for group in adamw.param_groups:
        assert all((p.ndim > 1) == (group["weight_decay"] == 0.05) for p in group["params"])
    assert sum(p.numel() for g in adamw.param_groups for p in g["params"]) == total


def test_depth_decay_lowers_the_rate_towards_the_input() -> None:
    pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")
    from support.official_network import tiny_model

    model = tiny_model()
    optimiser = build_optimiser(Learner(model, None), Recipe(depth_decay=0.5))
    share = {id(p): g["lr_scale"] for g in optimiser.param_groups for p in g["params"]}
    named = dict(model.named_parameters())
    assert share[id(named["visual.backbone.vit.patch_embed.proj.weight"])] == 0.5**4
    assert share[id(named["visual.backbone.vit.blocks.0.norm1.weight"])] == 0.5**3
    assert share[id(named["visual.backbone.vit.blocks.2.norm1.weight"])] == 0.5
    assert share[id(named["mixture.readout.weight"])] == 1.0
    frozen = build_optimiser(Learner(model, None), Recipe(frozen_depth=1))
    trained = {id(p) for g in frozen.param_groups for p in g["params"]}
    assert id(named["mixture.readout.weight"]) in trained
    assert not named["visual.backbone.vit.cls_token"].requires_grad
    assert not trained & {id(p) for n, p in named.items() if "backbone" in n}


def test_only_compact_has_its_weights_in_a_package() -> None:
    with pytest.raises(UsageError, match="compact starts from its published weights"):
        CompactModel(width_factor=0.25).load_backbone("vit.safetensors")


def test_backbone_weights_come_from_a_file_or_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")
    from support.official_network import tiny_model

    model, other = tiny_model(), tiny_model()
    vit = {k: v + 1 for k, v in model.visual.backbone.vit.state_dict().items()}
    save_file({**vit, "head.weight": torch.zeros(3)}, tmp_path / "vit.safetensors")
    other.load_backbone(str(tmp_path / "vit.safetensors"))
    for name, tensor in other.visual.backbone.vit.state_dict().items():
        assert torch.equal(tensor, vit[name]), name
    vit.pop("cls_token")
    save_file(vit, tmp_path / "less.safetensors")
    with pytest.raises(ModelError, match="1 tensors missing"):
        other.load_backbone(str(tmp_path / "less.safetensors"))
    with pytest.raises(ModelError, match="cannot be read"):
        other.load_backbone(str(tmp_path / "absent.safetensors"))


def test_every_start_names_an_architecture_and_a_recipe_that_exist() -> None:
    for name, entry in MODELS.items():
        assert entry.blueprint.architecture in ARCHITECTURES, name
        assert entry.blueprint.recipe in RECIPES, name
        assert isinstance(entry.blueprint.network(0.1, Scale(0, 5), 1), dict)
