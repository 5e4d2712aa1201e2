"""The records that pass between the parts; no behaviour beyond reading them.

Shapes: H, W image height and width in pixels; h, w rows and columns of a quality map.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RGB: TypeAlias = "NDArray[np.uint8]"
"""A decoded image: shape (H, W, 3), uint8, sRGB, upright, opaque."""


@dataclass(frozen=True)
class Scale:
    """The scale that scores are given on.

    `low` and `high` are the nominal ends of the human rating scale, in its own units.
    """

    low: float
    high: float
    name: str = "MOS"
    higher_is_better: bool = True


COVERAGE = 0.8
"""Share of human scores that `Score.interval` is made to hold."""


@dataclass(frozen=True)
class Score:
    """What a model says about one image.

    Attributes:
        path: the file, or a label such as `image[3]` for an image given as data.
        score: predicted mean opinion score on the model's scale, or None after an error.
        percentile: share (0 to 100) of the training set's human scores below `score`.
        low, high: nominal ends of the scale; higher is better.
        model: name of the model, with `@revision` when it came from a pinned one.
        error: why there is no score; None when there is one.
        hint: what may mislead the score, such as a picture that was enlarged; None where nothing
            was noticed.
        interval: where the people's mean opinion lies for 80 % of pictures, on the model's scale
            and within its ends: `score` plus and minus one half width, by split conformal
            prediction (Papadopoulos et al. 2002) on the images that the model was validated on. It
            holds on average over pictures like those, not for each kind of them, and not for
            pictures of other generators. None after an error, and where the model directory does
            not say.
        contributions: what each expert adds, and the bias; they sum to `score`. This and the
            maps are None unless asked for.
        contribution_map: what each place adds to the contribution of the expert that sees
            places, shape (h, w), float32.
        quality_map: of `compact`, the score that the image would have if all of it looked like
            this place, shape (h, w), float32; a place has 8 x 8 pixels.
        weight_map: how much each place of `compact` counted, shape (h, w), float32, sums to
            one; the mean of `quality_map` under these weights is `score`.
    """

    path: str
    score: float | None
    percentile: float | None
    low: float
    high: float
    model: str
    error: str | None = None
    hint: str | None = None
    interval: tuple[float, float] | None = None
    contributions: dict[str, float] | None = field(default=None, repr=False, compare=False)
    contribution_map: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    quality_map: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    weight_map: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    def __float__(self) -> float:
        if self.score is None:
            raise ValueError(f"{self.path} has no score: {self.error}")
        return self.score

    @property
    def map(self) -> NDArray[np.float32] | None:
        """The map to show: the quality of places; of a model whose places have no weights, what
        they add; None without an explanation."""
        return self.contribution_map if self.quality_map is None else self.quality_map

    def _repr_html_(self) -> str | None:
        """Show an explained score in a notebook as a picture; others as text."""
        if self.contributions is None:
            return None
        # By name, since what draws scores stands above what they are.
        text: str = importlib.import_module("ma_agiqa.gallery.picture").html(self)
        return text

    def to_row(self) -> dict[str, Any]:
        """Return the row that JSON lines carry, in their fixed key order."""
        return {key: getattr(self, key) for key in ROW_KEYS}


TABLE_KEYS = ("path", "score", "percentile", "low", "high", "model", "error", "hint")
"""What CSV and Parquet files of results have as columns, in this order."""

INTERVAL = "interval"
"""Key of what only JSON lines have room for: two numbers, or null."""

ROW_KEYS = (*TABLE_KEYS, INTERVAL)

SHOWN = "shown"
"""Key under which a row of a gallery carries its thumbnail and map."""

Row: TypeAlias = "dict[str, Any]"
"""One line of results: `ROW_KEYS`, then what was kept of a table or read from the file."""
