"""Published measures for comparison, computed by the library pyiqa (extra `peers`).

pyiqa is an independent implementation whose results its authors check against the originals.
It fetches weights or statistics of a measure from the network the first time.
Scores are raw, as the library gives them; whether lower is better is what it says.
What this file does not do: judge them (`evaluation/scores.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ma_agiqa.data.samples import Samples, require_images
from ma_agiqa.errors import MAAGIQAError, MissingExtraError, ModelError, UsageError
from ma_agiqa.text import hint

PEERS = {
    "brisque": "natural-scene statistics and a support vector regression (Mittal 2012)",
    "niqe": "distance from statistics of pristine photographs (Mittal 2013)",
    "ilniqe": "the same with more features (Zhang 2015)",
    "clipiqa": "CLIP's choice between good and bad photo (Wang 2023)",
}
"""Name in pyiqa -> what it is. Other names of pyiqa's measures without reference work too."""


@dataclass(frozen=True)
class PeerScores:
    """Raw scores of a measure, (n,), and whether lower is better."""

    values: NDArray[np.float64]
    lower_is_better: bool


def version(metric: str) -> str:
    """Return the measure with the library's version.

    Raises:
        MissingExtraError: pyiqa is not installed.
        UsageError: it has no measure of this name.
    """
    pyiqa = _library()
    known = list(pyiqa.list_models(metric_mode="NR"))
    if metric not in known:
        shown = hint(metric, [*PEERS, *(name for name in known if name not in PEERS)][:20], "")
        raise UsageError(f"pyiqa has no measure {metric!r} without reference{shown}")
    return f"{metric} of pyiqa {metadata.version('pyiqa')}"


def peer_scores(
    metric: str,
    samples: Samples,
    *,
    device: str = "cpu",
    on_image: Callable[[], None] = lambda: None,
) -> PeerScores:
    """Return the measure of each image, one image at a time, at its own size.

    Raises:
        MissingExtraError, UsageError: as `version`.
        ModelError: its weights cannot be had.
        MAAGIQAError: an image cannot be read or judged; it is named.
    """
    import torch

    from ma_agiqa import images

    require_images(samples)
    measure = _open(metric, device)
    values = []
    for path in samples.path:
        rgb = images.decode(images.read_bytes(path), name=str(path))
        pixels = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None] / 255
        try:
            with torch.inference_mode():
                value = float(measure(pixels.to(device)))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise MAAGIQAError(f"{metric} failed: {error}", path=path) from error
        if not np.isfinite(value):
            raise MAAGIQAError(f"{metric} gave {value}", path=path)
        values.append(value)
        on_image()
    return PeerScores(np.array(values), bool(measure.lower_better))


def _open(metric: str, device: str) -> Any:
    version(metric)
    try:
        return _library().create_metric(metric, device=device)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"its weights cannot be had: {error}",
            path=metric,
            remedy="pyiqa fetches them from the network the first time; later runs need none",
        ) from error


def _library() -> Any:
    try:
        import pyiqa
    except ImportError as error:
        raise MissingExtraError("pyiqa", "peers") from error
    return pyiqa
