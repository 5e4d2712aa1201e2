"""A tiny mPLUG-Owl2 for tests: configuration, weights that follow from names, tokenizer."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ma_agiqa.lmm.mplug_owl2 import MPLUGOwl2, build
from ma_agiqa.lmm.mplug_owl2.checkpoint import empty_model, parse_config
from support.reference import weight

TEXT = """USER: Evaluate if the image quality is compromised. ASSISTANT: The image is coherent.
The input image lacks meaningful semantic content, and its quality is a question of coherence.
A painting of a fox in a hat; the hands have six fingers. ASSISTANT: USER: prompts and images."""

NORMS = ("norm.weight", "norm1.weight", "norm2.weight", "normk.weight", "ffn_ln.weight")


def config(**changes: Any) -> dict[str, Any]:
    """Return a `config.json` with two layers of each kind, 56 px and two key/value heads."""
    return {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "visual_config": {
            "visual_model": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 56,
                "patch_size": 14,
                "layer_norm_eps": 1e-6,
            },
            "visual_abstractor": {
                "hidden_size": 32,
                "intermediate_size": 40,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_learnable_queries": 8,
                "layer_norm_eps": 1e-6,
                "encoder_hidden_size": 32,
                "grid_size": 4,
            },
        },
        **changes,
    }


def weights(configuration: Mapping[str, Any], *, seed: int = 0) -> dict[str, Tensor]:
    """Return every parameter by the weight rule."""
    names = empty_model(parse_config(configuration)).named_parameters()
    return {
        name: torch.from_numpy(weight(name, p.shape, seed, norm=is_norm(name))) for name, p in names
    }


def is_norm(name: str) -> bool:
    """Say whether the name is of a norm's weight; the multiway wrapper hides the norm's name."""
    return name.endswith(NORMS) or (name.endswith(".weight") and "layernorm" in name)


def model(*, seed: int = 0, **changes: Any) -> MPLUGOwl2:
    """Return the tiny model."""
    configuration = config(**changes)
    return build(configuration, weights(configuration, seed=seed))


@cache
def tokenizer_model() -> bytes:
    """Return a small sentencepiece model with LLaMA's settings, 360 pieces.

    BPE, unknown characters as bytes, a space put before every text, no space removed.
    """
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=360,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    return model.getvalue()
