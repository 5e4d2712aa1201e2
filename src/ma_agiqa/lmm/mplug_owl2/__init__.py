"""mPLUG-Owl2 7B, the large multimodal model of the paper; our own implementation.

`build` makes the model from tensors; `loading.load` reads a checkpoint; `encoder` puts it
behind `SemanticEncoder`.
"""

from __future__ import annotations

from ma_agiqa.lmm.mplug_owl2.model import MPLUGOwl2
from ma_agiqa.lmm.mplug_owl2.weights import build

__all__ = ["MPLUGOwl2", "build"]
