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

from support.official_network import stages_of, tiny_inputs, tiny_model

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "tiny_network.npz"


def main() -> None:
    images, semantics = tiny_inputs()
    network = tiny_model().double()
    with torch.inference_mode(), stages_of(network) as stages:
        prediction = network(images.double(), semantics.double())
    named = {f"prediction.{k}": v for k, v in prediction._asdict().items() if v is not None}
    arrays = {k: v.detach().float().numpy() for k, v in {**stages, **named}.items()}
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **arrays)
    print(f"{GOLDEN}: {len(arrays)} arrays, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
