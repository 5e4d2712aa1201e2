"""Memory that fine-tuning the paper's whole visual expert needs, counted without a GPU.

    python benchmarks/memory.py --out benchmarks/results/memory_visual_2026-11-21.json

Counted are the weights, their gradients and Adam's two moments, in float32, and every
tensor that the forward pass keeps for the backward pass, each storage once. What the
allocator and the working memory of single operations add is not counted. The bytes kept grow in
proportion to the batch, so one image is run and its bytes are multiplied.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ma_agiqa.files import write_atomically
from ma_agiqa.models.paper.model import MAAGIQA
from ma_agiqa.provenance import environment

LIMIT_GB = 16.0
STATES = 4  # weight, gradient and two moments of every parameter


def kept_bytes(model: MAAGIQA, images: Tensor, *, half: bool) -> int:
    """Return the bytes that a forward pass of images (B, 3, S, S) keeps, without weights."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}  # by address; holding the tensor keeps the address taken

    def pack(x: Tensor) -> Tensor:
        address = x.untyped_storage().data_ptr()
        if address not in own:
            kept[address] = x
        return x

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
        model(images, None).score.sum()
    return sum(x.untyped_storage().nbytes() for x in kept.values())


def count(batch: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = MAAGIQA(semantics=0).train()
    parameters = sum(p.numel() for p in model.parameters())
    states = STATES * 4 * parameters / 1e9
    image = torch.rand(1, 3, 224, 224)
    rows = []
    for half in (False, True):
        activations = batch * kept_bytes(model, image, half=half) / 1e9
        rows.append(
            {
                "precision": "bfloat16" if half else "float32",
                "kept_for_backward_gb": round(activations, 2),
                "total_gb": round(states + activations, 2),
                "fits": states + activations < LIMIT_GB,
            }
        )
    return {"parameters": parameters, "states_gb": round(states, 2), "batch": batch, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, help="JSON file; stdout without it")
    options = parser.parse_args()
    command = shlex.join(["python", "benchmarks/memory.py", *sys.argv[1:]])
    record = {"command": command, **asdict(environment()), **count(options.batch)}
    text = json.dumps(record, indent=2) + "\n"
    if options.out is None:
        print(text, end="")
    else:
        write_atomically(options.out, text)


if __name__ == "__main__":
    main()
