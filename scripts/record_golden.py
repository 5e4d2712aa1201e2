"""Record every stage of the tiny network: tests/golden/tiny_network.npz.

    PYTHONPATH=src:tests python scripts/record_golden.py

Run it only when the network is meant to change, after the parity tests against the official
outputs pass: the file guards what they have shown in clones that lack those outputs.
Computed in float64, stored in float32; weights and inputs follow the rules in
tests/support/official_network.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from support.official_network import tiny_inputs, tiny_model

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "tiny_network.npz"


def main() -> None:
    images, semantics = tiny_inputs()
    stages: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        prediction = tiny_model().double()(images.double(), semantics.double(), stages)
    named = {f"prediction.{k}": v for k, v in prediction._asdict().items() if v is not None}
    arrays = {**stages, **named}
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **{k: v.float().numpy() for k, v in arrays.items()})
    print(f"{GOLDEN}: {len(arrays)} arrays, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
