"""Quality scores for AI-generated images that agree with people.

>>> import ma_agiqa
>>> scorer = ma_agiqa.load("compact")
>>> scorer("picture.png").score  # doctest: +SKIP
3.137

Arrays, PIL images, bytes and tensors are taken too:

>>> import numpy as np
>>> grey = scorer(np.full((64, 64, 3), 128, np.uint8))
>>> grey.low, grey.high, grey.error
(0.0, 5.0, None)

Importing this package loads nothing heavy: each public name is fetched on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ma_agiqa.errors import MAAGIQAError
from ma_agiqa.types import Score
from ma_agiqa.version import __version__

if TYPE_CHECKING:
    from ma_agiqa.scorer import Scorer, load

__all__ = ["MAAGIQAError", "Score", "Scorer", "__version__", "load"]

_LAZY = {"Scorer": "ma_agiqa.scorer", "load": "ma_agiqa.scorer"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
