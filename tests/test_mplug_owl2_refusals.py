"""What mPLUG-Owl2 refuses, and what it says then."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_owl
from ma_agiqa.errors import ModelError, UsageError
from ma_agiqa.lmm.mplug_owl2 import MPLUGOwl2, build

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
import make_mplug_owl2 as golden  # noqa: E402

PROMPTS = golden.PROMPTS


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([1, 2, 3], "exactly one image mark .* found 0"),
        ([1, -200, 2, -200], "exactly one image mark .* found 2"),
        ([1, -200, 320], r"token ids \[320\] are outside the vocabulary of 320"),
        ([1, -3, -200], r"token ids \[-3\]"),
        ([1] * 120 + [-200], "129 positions exceeds the model's 128"),
    ],
)
@pytest.mark.parametrize("schedule", ["official", "cached"])
def test_a_wrong_prompt_is_refused(
    owl: MPLUGOwl2, pixels: Tensor, ids: list[int], reason: str, schedule: Any
) -> None:
    with pytest.raises(UsageError, match=reason):
        owl.pooled(pixels, [PROMPTS[0], ids], schedule=schedule)


def test_a_wrong_image_shape_is_refused_with_both_numbers(owl: MPLUGOwl2) -> None:
    with pytest.raises(UsageError, match=r"\(B, 3, 56, 56\), got \(1, 3, 48, 56\)"):
        owl.pooled(torch.zeros(1, 3, 48, 56), PROMPTS)


def test_an_unknown_schedule_is_refused(owl: MPLUGOwl2, pixels: Tensor) -> None:
    with pytest.raises(UsageError, match=r"'fast'.*'cached' or 'official'"):
        owl.pooled(pixels, PROMPTS, schedule="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rms_norm_eps": None}, "rms_norm_eps must be a positive float, found None"),
        ({"hidden_size": "64"}, "hidden_size must be a positive int"),
        ({"num_attention_heads": 3}, "hidden_size = 64 is not divisible by twice the heads = 6"),
        ({"num_key_value_heads": 3}, "not divisible by key/value heads = 3"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling = .* is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported, only 'silu'"),
        ({"visual_config": None}, "visual_config must be a mapping"),
        ({"visual_config": {}}, "visual_model: expected a mapping, found NoneType"),
    ],
)
def test_a_wrong_config_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        build(tiny_owl.config(**changes))


def test_a_missing_epsilon_is_never_guessed() -> None:
    configuration = tiny_owl.config()
    del configuration["rms_norm_eps"]
    with pytest.raises(ModelError, match="lacks rms_norm_eps"):
        build(configuration)


def test_parts_that_do_not_fit_are_refused() -> None:
    configuration = tiny_owl.config()
    configuration["visual_config"]["visual_abstractor"]["grid_size"] = 5
    with pytest.raises(ModelError, match="grid_size = 5, but the vision model has 4"):
        build(configuration)


def test_wrong_weights_are_refused_by_name() -> None:
    configuration = tiny_owl.config()
    tensors = tiny_owl.weights(configuration)
    missing = {name: t for name, t in tensors.items() if name != "model.norm.weight"}
    with pytest.raises(ModelError, match=r"1 missing tensors: model\.norm.weight; no unexpected"):
        build(configuration, missing)
    with pytest.raises(ModelError, match="1 unexpected tensors: extra"):
        build(configuration, {**tensors, "extra": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"norm.weight has shape \(65,\), expected \(64,\)"):
        build(configuration, {**tensors, "model.norm.weight": torch.zeros(65)})


def test_a_stored_table_that_breaks_its_formula_is_refused() -> None:
    configuration = tiny_owl.config()
    tensors = tiny_owl.weights(configuration)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    right = build(configuration).state_dict()[name]
    build(configuration, {**tensors, name: right.half()})
    with pytest.raises(ModelError, match="inv_freq differs from its formula"):
        build(configuration, {**tensors, name: right * 1.01})
