"""The small visual expert: statistics of texture, visual words, and regressions on likeness.

Own design of this project. `statistics.py` describes a picture by 5,286 averages that need no
training, most of them of visual words (`words.py`), which are reduced to their leading
directions. `kernel.py` turns them, by likeness, first into how much the picture looks like the
work of each generator that made the rated pictures, then, together with that, into a score by
likeness to pictures that people rated and to smaller and damaged copies of them. With some two
thousand rated pictures this learns more than a convolutional network from random weights
(docs/LOG.md has the comparison), costs a fraction of its operations, and takes an image at its
own resolution, where noise, blur and artefacts live. `closeness.py` has a fixed share in the
score: how near the picture comes to the best-rated ones, which holds for unknown generators too.

What it does not do: look at meaning, or compare with a prompt.

Shapes: B images, H, W pixels, h, w windows, D statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ma_agiqa.errors import ImageError
from ma_agiqa.experts import words
from ma_agiqa.experts.closeness import Closeness
from ma_agiqa.experts.kernel import KernelRegression
from ma_agiqa.experts.statistics import MIN_SIDE, WIDTH, statistics_vector

WINDOW = 128
"""Side in pixels of the windows of the quality map; they overlap by a half."""


@dataclass(frozen=True)
class CompactQuality:
    """What the expert sees.

    Attributes:
        score: shape (B,), on the model's scale.
        images: what was scored, kept for `local`.
        expert: who scored.
    """

    score: Tensor
    images: Tensor
    expert: CompactExpert

    def local(self) -> tuple[Tensor, Tensor]:
        """Score windows of each image; return quality map and weight map, both (B, h, w).

        Each window is scored as if it were the picture; then all windows of a picture are
        shifted alike, so that their mean is its score. The weights are equal and sum to one.
        """
        windows = cut(self.images)
        rows, columns = windows.shape[1:3]
        alone = self.expert.score(windows.flatten(0, 2)).unflatten(0, (-1, rows, columns))
        shift = self.score - alone.mean((1, 2))
        quality_map = alone + shift[:, None, None]
        return quality_map, torch.full_like(quality_map, 1 / (rows * columns))


class CompactExpert(nn.Module):
    """Score images of any size from the statistics of their texture.

    Args:
        supports: pictures and other views of them that the regression remembers.
        components: directions that the visual words are reduced to; 0 leaves them out.
        rank: coordinates each is remembered by.
        origins: generators that pictures may look like; 0 where none were known.
        origin_rank: coordinates by which these are told apart.
        share: of the score that closeness to the best-rated pictures gives; 0 for none.

    Attributes:
        one_by_one: whether each image of a batch is computed alone, so that a scorer may as
            well compute them side by side.
    """

    one_by_one = True

    def __init__(
        self,
        *,
        supports: int,
        components: int = 0,
        rank: int = 128,
        origins: int = 0,
        origin_rank: int = 112,
        share: float = 0.0,
    ) -> None:
        super().__init__()
        self.share = share
        self.closeness = Closeness() if share else None
        self.words = words.Components(components)
        self.origin: KernelRegression | None = None
        told = WIDTH - words.SIZE + components
        if origins:
            self.origin = KernelRegression(
                statistics=told, rank=origin_rank, supports=supports, values=origins
            )
        self.regression = KernelRegression(statistics=told + origins, rank=rank, supports=supports)

    def forward(self, images: Tensor) -> CompactQuality:
        """Score images given as (B, 3, H, W) float in [0, 1].

        Raises:
            ImageError: not a batch of colour images, or a side shorter than `MIN_SIDE`.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < MIN_SIDE:
            raise ImageError(
                f"expected a batch of shape (B, 3, H, W) with sides of at least {MIN_SIDE} "
                f"pixels, found {tuple(images.shape)}"
            )
        return CompactQuality(self.score(images), images, self)

    def score(self, images: Tensor) -> Tensor:
        """Return the scores (B,) of images (B, 3, H, W); float32 whatever autocast says.

        Each image is computed alone: sums over a batch of another size round differently, and
        a score must not depend on its neighbours.
        """
        with torch.autocast(images.device.type, enabled=False):
            return torch.cat([self.judge(statistics_vector(x[None])) for x in images])

    def judge(self, statistics_BD: Tensor) -> Tensor:
        """Return the scores (B,) of pictures described by their statistics (B, D)."""
        told_BD = reduced(statistics_BD, self.words)
        if self.origin is not None:
            told_BD = torch.cat([told_BD, self.origin(told_BD)], 1)
        score = self.regression(told_BD)[:, 0]
        if self.closeness is None:
            return score
        return torch.lerp(score, self.closeness(statistics_BD), self.share)


def reduced(statistics_BD: Tensor, components: words.Components) -> Tensor:
    """Return statistics whose last part, that of the visual words, is reduced."""
    own, of_words = statistics_BD.split([WIDTH - words.SIZE, words.SIZE], -1)
    return torch.cat([own, components(of_words)], -1)


def cut(images: Tensor) -> Tensor:
    """Cut images (B, 3, H, W) into windows, (B, h, w, 3, S, S), that reach every edge."""
    side = min(WINDOW, *images.shape[2:])
    tops, lefts = (_starts(length, side) for length in images.shape[2:])
    rows = [torch.stack([images[:, :, t : t + side, x : x + side] for x in lefts], 1) for t in tops]
    return torch.stack(rows, 1)


def _starts(length: int, side: int) -> list[int]:
    count = 1 + -(-(length - side) // (side // 2))
    return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]
