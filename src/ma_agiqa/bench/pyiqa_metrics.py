"""Published metrics for comparison, computed by the library pyiqa (extra `peers`).

pyiqa is an independent implementation whose results its authors check against the originals.
It fetches weights or statistics of a metric from the network the first time.
Scores are raw, as the library gives them; the library also says whether lower is better.
What this file does not do: judge them (`evaluation/evaluate.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import numpy as np

from ma_agiqa import images
from ma_agiqa.errors import ImageError, MissingExtraError, ModelError, UsageError
from ma_agiqa.text import did_you_mean, join_some

COMMON = {
    "brisque": "natural-scene statistics and a support vector regression (Mittal 2012)",
    "niqe": "distance from statistics of pristine photographs (Mittal 2013)",
    "ilniqe": "the same with more features (Zhang 2015)",
    "clipiqa": "CLIP's choice between good and bad photo (Wang 2023)",
}
"""Name in pyiqa -> what it is. Its other metrics without reference work too."""


class NoScoreError(ImageError):
    """A metric gives no number for an image that can be read."""


def version(metric: str) -> str:
    """Return the metric with the library's version.

    Raises:
        MissingExtraError: pyiqa is not installed.
        UsageError: it has no metric of this name.
    """
    pyiqa = _library()
    known = list(pyiqa.list_models(metric_mode="NR"))
    if metric not in known:
        names = [*COMMON, *(name for name in known if name not in COMMON)][:20]
        shown = did_you_mean(metric, names, "it has")
        raise UsageError(f"pyiqa has no measure {metric!r} without reference{shown}")
    return f"{metric} of pyiqa {metadata.version('pyiqa')}"


class PyiqaMetric:
    """A metric, opened once; it scores one image at a time, at its own size.

    Attributes:
        metric: its name in pyiqa.
        version: the same with the library's version.
        lower_is_better: what the library says of its scores.

    Raises:
        MissingExtraError, UsageError: as `version`.
        ModelError: its weights, or another library that it needs, cannot be had.
    """

    def __init__(self, metric: str, *, device: str = "cpu") -> None:
        self.metric = metric
        self.version = version(metric)
        self._device = device
        try:
            self._metric = _library().create_metric(metric, device=device)
        except ImportError as error:
            raise ModelError(f"pyiqa cannot open it: {error}", path=metric) from error
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"its weights cannot be had: {error}",
                path=metric,
                remedy="pyiqa fetches them from the network the first time; later runs need none",
            ) from error
        self.lower_is_better = bool(self._metric.lower_better)

    def __call__(self, data: bytes, *, name: str) -> float:
        """Return the raw score of an encoded image; `name` is what errors call it.

        Raises:
            ImageError: the image cannot be read, or does not fit in memory.
            NoScoreError: the metric gives no number for it.
        """
        import torch

        rgb = images.decode(data, name=name)
        pixels = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None] / 255
        try:
            with torch.inference_mode():
                value = float(self._metric(pixels.to(self._device)))
        except torch.OutOfMemoryError as error:
            raise ImageError(
                f"{self.metric} does not fit in memory", path=name, remedy="try --device cpu"
            ) from error
        except (RuntimeError, ValueError, AssertionError) as error:
            raise NoScoreError(f"{self.metric} failed: {error}", path=name) from error
        if not np.isfinite(value):
            raise NoScoreError(f"{self.metric} gave {value}", path=name)
        return value


def filled(
    scores: Mapping[str, float], without: Iterable[str], *, lower_is_better: bool
) -> dict[str, float]:
    """Return the scores, and for each name in `without` the worst of them.

    A metric of naturalness gives up on pictures that are mostly flat. Without them, its figures
    would be better than it is.

    Raises:
        NoScoreError: no image has a score, so there is no worst one.
    """
    without = list(without)
    if not without:
        return dict(scores)
    if not scores:
        raise NoScoreError(f"the measure gives no number for any image: {join_some(without)}")
    worst = max(scores.values()) if lower_is_better else min(scores.values())
    return {**scores, **dict.fromkeys(without, worst)}


def _library() -> Any:
    try:
        import pyiqa
    except ImportError as error:
        raise MissingExtraError("pyiqa", "peers") from error
    return pyiqa
