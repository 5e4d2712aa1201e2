"""Counted operations are those that run, and the docs show what is counted."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import REPOSITORY

transformers = pytest.importorskip("transformers", reason="needs the extra 'lmm'")
sys.path.insert(0, str(REPOSITORY / "scripts"))

import count_lmm  # noqa: E402
from count_lmm import PUBLISHED, Sizes, Stack  # noqa: E402

POSITIONS = 32


def flops(module: torch.nn.Module, **inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(**inputs)
    return int(counter.get_total_flops())


def test_a_language_stack_counts_what_runs() -> None:
    stack = Stack(3, 32, 48, 4, shared=2, head_width=16, gated=True)
    config = transformers.Qwen3Config(
        vocab_size=10, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    config._attn_implementation = "eager"  # the counter knows no fused attention on every CPU
    model = transformers.Qwen3Model(config)
    embeds = torch.zeros(1, POSITIONS, 32)
    rotary = flops(model.rotary_emb, x=embeds, position_ids=torch.arange(POSITIONS)[None])
    run = flops(model, inputs_embeds=embeds) - rotary
    assert run == 2 * stack.multiply_adds(POSITIONS)
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(linear.weight.numel() for linear in linears) == stack.weights


def test_a_vision_stack_counts_what_runs() -> None:
    stack = Stack(2, 16, 24, 2)
    config = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        image_size=28, patch_size=7, vision_use_head=False,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = transformers.SiglipVisionModel(config)
    patches = 2 * 16 * (3 * 7 * 7) * 16
    run = flops(model, pixel_values=torch.zeros(1, 3, 28, 28))
    assert run == 2 * stack.multiply_adds(16) + patches


def named(part: str) -> Sizes:
    return next(sizes for sizes in PUBLISHED if part in sizes.name)


@pytest.mark.parametrize(
    ("part", "parameters"),
    [("gemma-3-4b", 3_880_099_328), ("gemma-3-12b", 11_765_788_416)],
)
def test_the_language_models_have_the_parameters_their_makers_state(
    part: str, parameters: int
) -> None:
    sizes = named(part)
    counted = sizes.language.weights + sizes.vocabulary * sizes.language.width
    # Norms are not counted, and the text-only release has 64 tokens fewer.
    assert counted == pytest.approx(parameters, rel=1e-3)


def test_four_bits_shrink_layers_and_leave_embeddings() -> None:
    sizes = named("Qwen3-VL-8B")
    saved = sizes.gigabytes(16) - sizes.gigabytes(4)
    layers = sizes.language.weights + sizes.vision.weights + sizes.projector
    assert saved == pytest.approx(layers * 1.5e-9)


def test_the_docs_show_what_is_counted() -> None:
    page = (REPOSITORY / "docs/lmms.md").read_text(encoding="utf-8")
    assert count_lmm.with_table(page) == page, "run `python scripts/count_lmm.py --write`"
    assert all(f"`{sizes.name}`" in page for sizes in PUBLISHED)
