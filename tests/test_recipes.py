"""What recipes promise: rates, groups, views, losses and where a network starts."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ma_agiqa.errors import ModelError, UsageError
from ma_agiqa.experts.convolutional import ConvolutionalExpert
from ma_agiqa.training.augment import paper_view, views
from ma_agiqa.training.losses import score_loss
from ma_agiqa.training.optimisation import build_optimiser, learning_rate
from ma_agiqa.training.recipe import RECIPES, Recipe
from ma_agiqa.training.starts import STARTS, load_backbone
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
    model = ConvolutionalExpert(widths=(4, 8, 8, 12), depths=(1, 1, 1))
    total = sum(p.numel() for p in model.parameters())
    adam = build_optimiser(model, (), RECIPES["paper"])
    assert isinstance(adam, torch.optim.Adam)
    assert [g["weight_decay"] for g in adam.param_groups] == [1e-5]
    adamw = build_optimiser(model, (), Recipe())
    decayed = {g["weight_decay"]: g["params"] for g in adamw.param_groups}
    assert all(p.ndim > 1 for p in decayed[0.05])
    assert all(p.ndim == 1 for p in decayed[0.0])
    assert sum(p.numel() for g in adamw.param_groups for p in g["params"]) == total


def test_layer_decay_lowers_the_rate_towards_the_input() -> None:
    pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")
    from official_network import tiny_model

    model = tiny_model()
    optimiser = build_optimiser(model, (), Recipe(layer_decay=0.5))
    share = {id(p): g["share"] for g in optimiser.param_groups for p in g["params"]}
    named = dict(model.named_parameters())
    assert share[id(named["visual.backbone.vit.patch_embed.proj.weight"])] == 0.5**4
    assert share[id(named["visual.backbone.vit.blocks.0.norm1.weight"])] == 0.5**3
    assert share[id(named["visual.backbone.vit.blocks.2.norm1.weight"])] == 0.5
    assert share[id(named["mixture.readout.weight"])] == 1.0
    frozen = build_optimiser(model, (), Recipe(freeze="backbone"))
    trained = {id(p) for g in frozen.param_groups for p in g["params"]}
    assert id(named["mixture.readout.weight"]) in trained
    assert not named["visual.backbone.vit.cls_token"].requires_grad
    assert not trained & {id(p) for n, p in named.items() if "backbone" in n}


def test_a_network_without_a_backbone_cannot_freeze_or_fill_one() -> None:
    model = ConvolutionalExpert(widths=(4, 8, 8, 12), depths=(1, 1, 1))
    with pytest.raises(UsageError, match="no backbone"):
        build_optimiser(model, (), Recipe(freeze="backbone"))
    with pytest.raises(UsageError, match="no vision transformer"):
        load_backbone(model, "published")


def test_backbone_weights_come_from_a_file_or_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")
    from official_network import tiny_model

    model, other = tiny_model(), tiny_model()
    vit = {k: v + 1 for k, v in model.visual.backbone.vit.state_dict().items()}
    save_file({**vit, "head.weight": torch.zeros(3)}, tmp_path / "vit.safetensors")
    load_backbone(other, str(tmp_path / "vit.safetensors"))
    for name, tensor in other.visual.backbone.vit.state_dict().items():
        assert torch.equal(tensor, vit[name]), name
    vit.pop("cls_token")
    save_file(vit, tmp_path / "less.safetensors")
    with pytest.raises(ModelError, match="1 tensors missing"):
        load_backbone(other, str(tmp_path / "less.safetensors"))
    with pytest.raises(ModelError, match="cannot be read"):
        load_backbone(other, str(tmp_path / "absent.safetensors"))


def test_paper_views_turn_and_flip_as_often_as_published() -> None:
    image = torch.arange(3 * 4 * 4, dtype=torch.uint8).view(3, 4, 4)
    forms = {}
    for turns in range(4):
        for flip in (False, True):
            turned = image.rot90(turns, (1, 2))
            forms[(turned.flip(1) if flip else turned).numpy().tobytes()] = (turns, flip)
    rng, n = np.random.default_rng(0), 4000
    seen = [forms[paper_view(image, rng=rng).contiguous().numpy().tobytes()] for _ in range(n)]
    turned = np.bincount([turns for turns, _ in seen], minlength=4) / n
    # Standard error of a share of 4,000 draws is below 0.008; the bounds are four of them.
    np.testing.assert_allclose(turned, [0.3, 0.231, 0.231, 0.238], atol=0.032)
    assert abs(np.mean([flip for _, flip in seen]) - 0.7) < 0.032


def test_the_last_epochs_crop_to_their_own_size() -> None:
    recipe = Recipe(epochs=5, crop=8, finish=2, finish_crop=12)
    images = [torch.zeros(3, 16, 16, dtype=torch.uint8)] * 2
    rng = np.random.default_rng(0)
    sides = [views(images, recipe, epoch=e, rng=rng).shape[-1] for e in range(5)]
    assert sides == [8, 8, 8, 12, 12]


def test_mirrored_views_are_the_image_or_its_mirror_image() -> None:
    image = torch.randint(0, 255, (3, 6, 6), dtype=torch.uint8)
    recipe = Recipe(views="mirror")
    seen = views([image] * 20, recipe, epoch=0, rng=np.random.default_rng(0))
    plain = seen.eq(image / 255.0).flatten(1).all(1)
    mirrored = seen.eq(image.flip(2) / 255.0).flatten(1).all(1)
    assert (plain ^ mirrored).all()
    assert 0 < plain.sum() < 20


def test_losses_follow_their_definition() -> None:
    predicted, target = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 3.0])
    paper = score_loss(predicted, target, recipe=RECIPES["paper"], spread=2.0)
    assert paper.item() == pytest.approx(2 / 3)
    own = score_loss(predicted, target, recipe=Recipe(correlation=0.5), spread=2.0)
    pearson = np.corrcoef(predicted.numpy(), target.numpy())[0, 1]
    assert own.item() == pytest.approx((0.125 + 0.125) / 3 + 0.5 * (1 - pearson), abs=1e-6)


def test_every_start_names_an_architecture_and_a_recipe_that_exist() -> None:
    from ma_agiqa.checkpoints import ARCHITECTURES

    for name, start in STARTS.items():
        assert start.architecture in ARCHITECTURES, name
        assert start.recipe in RECIPES, name
        assert isinstance(start.network(Recipe(), Scale(0, 5)), dict)
