"""Record every stage of the tiny mPLUG-Owl2, so that a plain clone guards them.

    PYTHONPATH=src:tests python tests/golden/make_mplug_owl2.py

Run it only when the numbers are meant to change, after the parity tests against the official
code's outputs have passed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from support import tiny_owl
from support.reference import images

GOLDEN = Path(__file__).with_name("mplug_owl2_tiny.npz")
PROMPTS = [[1, 36, 144, 8, -200, 151, 255], [1, 130, 217, 95, 169, 142, -200, 160, 183]]


def stages() -> dict[str, np.ndarray]:
    """Return every stage of the first prompt, and the pooled vectors of both."""
    model = tiny_owl.model()
    pixels = torch.from_numpy(images(2, 56, seed=7))
    seen = model.forward_intermediates(pixels, PROMPTS[0])
    embeds, *layers, last_hidden = seen["language"]
    named = {f"vision{i}": state for i, state in enumerate(seen["vision"])}
    named |= {f"abstractor{i}": state for i, state in enumerate(seen["abstractor"])}
    named |= {f"layer{i}": state for i, state in enumerate(layers)}
    named |= {"inputs_embeds": embeds, "last_hidden": last_hidden}
    named |= {"pooled": model.pooled(pixels, PROMPTS)}
    return {name: state.numpy() for name, state in named.items()}


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **stages())
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")
