"""The paper's network made tiny, for tests of training and scoring with semantics."""

from __future__ import annotations

NETWORK = {
    "patch_size": 56,
    "width": 16,
    "heads": 2,
    "taps": [0, 1],
    "stage_widths": [16, 8],
    "window_mlp": 16,
}
"""Arguments of the visual expert: a grid of 4 x 4 patches, two blocks."""

OPTIONS = [
    word for key, value in NETWORK.items() for word in ("--network", f"visual.{key}={value}")
]
"""The same for `ma-agiqa train`."""
