"""mPLUG-Owl2 gives the official vectors, for less work, stays frozen, and refuses wrong input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from conftest import REPOSITORY
from ma_agiqa.errors import UsageError
from ma_agiqa.lmm.mplug_owl2 import MPLUGOwl2, build
from ma_agiqa.lmm.mplug_owl2.checkpoint import empty_model, parse_config
from ma_agiqa.lmm.mplug_owl2.model import sincos_grid, sincos_table, spans_of
from support import tiny_owl
from support.reference import weight

sys.path.insert(0, str(REPOSITORY / "tests/golden"))
import make_mplug_owl2 as golden

# Float32 of other kernels and other orders of summation: what the recorder states as noise.
PARITY = 2e-5
VARIANTS = ("mha", "mha_eps5", "gqa_patched")
PROMPTS = golden.PROMPTS


class Recorded:
    """One variant of the recorded official outputs, and our model with the same weights."""

    def __init__(self, folder: Path, variant: str) -> None:
        facts = json.loads((folder / "mplug_owl2_tiny.json").read_text())
        self.arrays = np.load(folder / "mplug_owl2_tiny.npz")
        self.variant = variant
        self.prompts: dict[str, list[int]] = facts["prompts"]
        self.images = torch.from_numpy(self.arrays["images"])
        described = facts["variants"][variant]
        self.config, self.names = described["config"], described["state_dict"]
        norms, skipped = described["norm_weight_names"], described["structural_skipped"]
        tensors = {
            name: torch.from_numpy(weight(name, shape, facts["SEED"], norm=name in norms))
            for name, shape, _ in self.names
            if name not in skipped
        }
        self.model = build(self.config, tensors)

    def assert_close(self, ours: Tensor, key: str) -> None:
        expected = torch.from_numpy(self.arrays[f"{self.variant}/{key}"])
        atol = PARITY * expected.std().item()
        torch.testing.assert_close(ours, expected, rtol=0, atol=atol, msg=lambda m: f"{key}: {m}")


@pytest.fixture(scope="module", params=VARIANTS)
def recorded(request: pytest.FixtureRequest, fixtures: Path) -> Recorded:
    return Recorded(fixtures, request.param)


# --- parity with the official code -----------------------------------------------------------


@pytest.mark.parametrize("prompt", ["A", "B"])
def test_every_stage_equals_the_official_code(recorded: Recorded, prompt: str) -> None:
    seen = recorded.model.forward_intermediates(recorded.images, recorded.prompts[prompt])
    keys = ("embeddings", "layer0", "layer1", "output")
    for key, state in zip(keys, seen["vision"], strict=True):
        recorded.assert_close(state, f"vision/{key}")
    for key, state in zip(keys[1:], seen["abstractor"], strict=True):
        recorded.assert_close(state, f"abstractor/{key}")
    embeds, first, second, last_hidden = seen["language"]
    recorded.assert_close(embeds, f"{prompt}/inputs_embeds")
    recorded.assert_close(first, f"{prompt}/text/layer0")
    recorded.assert_close(second, f"{prompt}/text/layer1")
    recorded.assert_close(torch.stack([embeds, first, last_hidden]), f"{prompt}/hidden_states")
    recorded.assert_close(last_hidden, f"{prompt}/last_hidden")
    logits = recorded.model.lm_head(last_hidden[:, -1])
    recorded.assert_close(logits, f"{prompt}/logits_last")


@pytest.mark.parametrize("prompt", ["A", "B"])
def test_attention_of_the_first_layer_equals_the_official_code(
    recorded: Recorded, prompt: str
) -> None:
    embeds = torch.from_numpy(recorded.arrays[f"{recorded.variant}/{prompt}/inputs_embeds"])
    ids = recorded.prompts[prompt]
    before = ids.index(-200)
    spans = spans_of(before=before, image=9, after=len(ids) - before - 1)
    model: Any = recorded.model.model
    x_LBD = embeds.transpose(0, 1)
    rotary = model.rotary(torch.arange(len(x_LBD))[:, None])
    layer = model.layers[0]
    attended, _ = layer.self_attn(layer.input_layernorm(x_LBD, spans), spans=spans, rotary=rotary)
    recorded.assert_close(attended.transpose(0, 1), f"{prompt}/text/layer0_attn")


@pytest.mark.parametrize("schedule", ["official", "cached"])
def test_pooled_vectors_equal_the_official_code(recorded: Recorded, schedule: Any) -> None:
    prompts = recorded.prompts
    vectors = recorded.model.pooled(recorded.images, list(prompts.values()), schedule=schedule)
    for k, prompt in enumerate(prompts):
        recorded.assert_close(vectors[:, k : k + 1], f"{prompt}/semantic")


def test_names_and_shapes_equal_the_official_code(recorded: Recorded) -> None:
    ours = {name: list(tensor.shape) for name, tensor in recorded.model.state_dict().items()}
    assert ours == {name: shape for name, shape, _ in recorded.names}


def test_position_tables_equal_the_stored_ones(recorded: Recorded) -> None:
    recorded.assert_close(sincos_table(torch.arange(8), 32), "q_pos_embed")
    recorded.assert_close(sincos_grid(4, 32), "k_pos_embed")


def test_the_full_size_model_has_exactly_the_released_names_and_shapes(fixtures: Path) -> None:
    released = json.loads((fixtures / "mplug_owl2_7b_state_dict.json").read_text())
    model = empty_model(parse_config(released["config"]))
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == {entry["name"]: entry["shape"] for entry in released["entries"]}
    assert sum(p.numel() for p in model.parameters()) == released["n_parameters"] == 8_197_859_328


# --- in a plain clone ------------------------------------------------------------------------


def test_every_stage_equals_its_golden_values() -> None:
    expected = np.load(golden.GOLDEN)
    stages = golden.stages()
    assert set(stages) == set(expected.files)
    for name, state in stages.items():
        atol = PARITY * expected[name].std()
        np.testing.assert_allclose(state, expected[name], rtol=0, atol=atol, err_msg=name)


# --- one vector, however it is computed ------------------------------------------------------

# Same operations on other shapes: kernels sum in another order, a few float32 steps.
SAME = 5e-6


def test_vectors_do_not_depend_on_the_schedule(owl: MPLUGOwl2, pixels: Tensor) -> None:
    """Prompts of any shape: no text before the image, none after it, long and short."""
    prompts = [*PROMPTS, [1, -200], [-200, 9, 8], [-200], [*range(1, 40), -200, 5, 6]]
    official = owl.pooled(pixels, prompts, schedule="official")
    cached = owl.pooled(pixels, prompts, schedule="cached")
    torch.testing.assert_close(cached, official, rtol=0, atol=SAME * official.std().item())


@pytest.mark.parametrize("schedule", ["official", "cached"])
def test_vectors_do_not_depend_on_the_batch(owl: MPLUGOwl2, pixels: Tensor, schedule: Any) -> None:
    together = owl.pooled(pixels, PROMPTS, schedule=schedule)
    atol = SAME * together.std().item()
    for i in range(len(pixels)):
        alone = owl.pooled(pixels[i : i + 1], PROMPTS, schedule=schedule)
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=atol)
    order = [2, 0, 3, 1]
    shuffled = owl.pooled(pixels[order], PROMPTS[::-1], schedule=schedule)
    torch.testing.assert_close(shuffled, together[order].flip(1), rtol=0, atol=atol)


def test_images_and_questions_both_change_the_vector(owl: MPLUGOwl2, pixels: Tensor) -> None:
    vectors = owl.pooled(pixels, PROMPTS)
    assert (vectors[0] - vectors[1]).abs().max() > 0.01 * vectors.std()
    assert (vectors[:, 0] - vectors[:, 1]).abs().max() > 0.01 * vectors.std()


def test_an_empty_batch_gives_empty_vectors(owl: MPLUGOwl2, pixels: Tensor) -> None:
    assert owl.pooled(pixels[:0], PROMPTS).shape == (0, 2, 64)
    assert owl.pooled(pixels, []).shape == (4, 0, 64)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Greatest of 512 differences, in standard deviations of the vectors, over three seeds:
    # 0.0053 and 0.0422, for both schedules alike; their ratio is that of the dtypes' steps.
    [(torch.float16, 0.008), (torch.bfloat16, 0.064)],
)
@pytest.mark.parametrize("schedule", ["official", "cached"])
def test_half_precision_stays_near_float32(
    owl: MPLUGOwl2, pixels: Tensor, dtype: torch.dtype, tolerance: float, schedule: Any
) -> None:
    exact = owl.pooled(pixels, PROMPTS)
    rounded = owl.to(dtype).pooled(pixels, PROMPTS, schedule=schedule)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0, atol=tolerance * exact.std().item())


def test_rotary_frequencies_stay_exact_in_half_precision(owl: MPLUGOwl2) -> None:
    before = owl.state_dict()["model.layers.1.self_attn.rotary_emb.inv_freq"].clone()
    after = owl.half().state_dict()["model.layers.1.self_attn.rotary_emb.inv_freq"]
    assert torch.equal(before, after)


# --- the kept state of prompts ---------------------------------------------------------------


def test_the_text_before_the_image_is_run_once(owl: MPLUGOwl2, pixels: Tensor) -> None:
    operations = []
    for _ in range(3):
        with FlopCounterMode(display=False) as counter:
            owl.pooled(pixels, PROMPTS)
        operations.append(counter.get_total_flops())
    assert operations[0] > operations[1] == operations[2]


@pytest.mark.parametrize("change", ["load", "assign", "in place", "dtype and back", "submodule"])
def test_new_weights_are_never_mixed_with_kept_state(pixels: Tensor, change: str) -> None:
    owl = tiny_owl.model()
    owl.pooled(pixels, PROMPTS)
    other = tiny_owl.weights(tiny_owl.config(), seed=1)
    if change in ("load", "assign"):
        owl.load_state_dict(other, strict=False, assign=change == "assign")
    elif change == "in place":
        with torch.no_grad():
            for parameter in owl.model.layers.parameters():
                parameter.mul_(0.5)
    elif change == "submodule":
        layers = {k[13:]: v for k, v in other.items() if k.startswith("model.layers.")}
        owl.model.layers.load_state_dict(layers, strict=False)
    else:
        owl.bfloat16().float()
    cached = owl.pooled(pixels, PROMPTS)
    official = owl.pooled(pixels, PROMPTS, schedule="official")
    torch.testing.assert_close(cached, official, rtol=0, atol=SAME * official.std().item())


# --- frozen ----------------------------------------------------------------------------------


def test_frozen_stays_frozen(owl: MPLUGOwl2, pixels: Tensor) -> None:
    parent = nn.ModuleDict({"owl": owl, "head": nn.Linear(64, 1)})
    parent.train()
    assert parent.training
    assert not any(module.training for module in owl.modules())
    with pytest.raises(UsageError, match="frozen"):
        owl.requires_grad_(True)
    assert not any(p.requires_grad for p in owl.parameters())
    # A parent may mark our weights, yet no gradient reaches them.
    parent.requires_grad_(True)
    parent["head"](owl.pooled(pixels, PROMPTS)).sum().backward()
    assert parent["head"].weight.grad is not None
    assert all(p.grad is None for p in owl.parameters())


def test_the_given_tensors_are_taken_over_without_a_copy() -> None:
    configuration = tiny_owl.config()
    tensors = tiny_owl.weights(configuration)
    model = build(configuration, tensors)
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == tensors[name].data_ptr(), name


# --- refusals --------------------------------------------------------------------------------


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
