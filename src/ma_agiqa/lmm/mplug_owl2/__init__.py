"""mPLUG-Owl2 7B, the large multimodal model of the paper; our own implementation."""

from __future__ import annotations

from ma_agiqa.lmm.mplug_owl2.checkpoint import build
from ma_agiqa.lmm.mplug_owl2.model import MPLUGOwl2

__all__ = ["MPLUGOwl2", "build"]
