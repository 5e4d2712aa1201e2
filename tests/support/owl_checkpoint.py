"""A tiny mPLUG-Owl2 checkpoint on disk, in the published layout, for tests of the commands."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ma_agiqa.lmm.mplug_owl2 import MPLUGOwl2, build
from ma_agiqa.lmm.mplug_owl2.checkpoint import load_checkpoint
from ma_agiqa.lmm.weights import open_checkpoint
from support import tiny_owl

WIDTH = 64
PUBLISHED_SHARDS = 33


def write(folder: Path, *, seed: int = 0, shards: int = 3, tables: bool = False) -> Path:
    """Write pickle shards with their index, configuration and tokenizer.

    With `tables` the position tables are among the tensors, as in the published checkpoint.
    """
    folder.mkdir(parents=True)
    config = tiny_owl.config(vocab_size=360)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mplug_owl2"}))
    (folder / "tokenizer.model").write_bytes(tiny_owl.tokenizer_model())
    tensors = tiny_owl.weights(config, seed=seed)
    if tables:
        state = build(config, tensors).state_dict()
        tensors = {name: tensor.clone() for name, tensor in state.items()}
    places = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1}-of-{shards}.bin"
        part = {name: tensors[name] for name in list(tensors)[number::shards]}
        torch.save(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def load(source: str | Path, *, dtype: str = "fp16", revision: str | None = None) -> MPLUGOwl2:
    """Read a checkpoint onto the CPU."""
    return load_checkpoint(open_checkpoint(source, revision=revision), device="cpu", dtype=dtype)
