"""What a network sees of a training image: views that leave quality as it is.

    local    a random crop at the image's own resolution, at times of a reduced or an enlarged
             copy, and the reduced whole of that copy beside it, as `compact` takes them; both
             mirrored left to right at times. Some images bring two distorted copies along, the
             second one more distorted than the first; half of these copies are distorted in one
             square only.
    mirror   the whole image, mirrored left to right at times
    paper    the whole image as the official code turns it: by 90, 180 or 270 degrees with
             probability 0.7, then upside down with probability 0.7

All chance of an image comes from the generator given, so an epoch repeats exactly from its seed.

Source of `paper`: official utils/process.py. Its "horizontal flip" applies numpy's fliplr to
an array of shape (C, H, W), which turns the picture upside down. Kept as it is.

Shapes: H, W image size, S side of the crop, c side of the whole view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ma_agiqa.models.compact.model import MIN_SIDE, content_view
from ma_agiqa.models.preprocess import to_chw, to_unit
from ma_agiqa.training.distortions import DISTORTIONS, distort
from ma_agiqa.training.recipe import Recipe
from ma_agiqa.types import RGB

PLACE = 8
"""Pixels: squares that are distorted alone lie on the grid of the quality map."""

_WHOLE_SHARE = 3 / 4  # of each side of the reduced whole that training shows
_PAPER_PROB = 0.7
_PAPER_QUARTERS = (0.33, 0.33, 0.34)  # of one, two and three quarter turns


@dataclass(frozen=True)
class Copy:
    """A distorted copy of a local view.

    Attributes:
        crop, whole: as of the view.
        severity: of the distortion, in (0, 1].
    """

    crop: RGB
    whole: RGB
    severity: float


@dataclass(frozen=True)
class View:
    """What the network is shown of one image; all pixels uint8.

    Attributes:
        crop: (S, S, 3), or the whole image of `mirror` and `paper`.
        whole: (c, c, 3); None for networks that take one view.
        copies: none, or two of one kind of distortion, the second the stronger one.
        square: top, left and side, in places of the map, of what is distorted in the copies;
            None where all of it is.
    """

    crop: RGB
    whole: RGB | None = None
    copies: tuple[Copy, ...] = ()
    square: tuple[int, int, int] | None = None


def global_view(rgb: RGB, recipe: Recipe, *, rng: np.random.Generator) -> View:
    """Return the whole image (H, W, 3) as the recipe's `views` turns it."""
    if recipe.views == "mirror":
        return View(rgb[:, ::-1] if rng.random() < recipe.flip_prob else rgb)
    return View(paper_turn(rgb, rng=rng))


def reduce_whole(rgb: RGB, *, side: int) -> RGB:
    """Return what the content expert of `compact` sees of a whole image, as uint8."""
    return _pixels(content_view(to_unit(to_chw(rgb))[None], side=side)[0])


def paper_turn(rgb: RGB, *, rng: np.random.Generator) -> RGB:
    """Turn a square image by quarters, then upside down, as the official training does."""
    if rng.random() < _PAPER_PROB:
        rgb = np.rot90(rgb, int(rng.choice((1, 2, 3), p=_PAPER_QUARTERS)))
    return rgb[::-1] if rng.random() < _PAPER_PROB else rgb


def local_view(
    rgb: RGB,
    reduced: RGB,
    recipe: Recipe,
    *,
    content_side: int,
    distorted: bool,
    rng: np.random.Generator,
) -> View:
    """Return a crop of an image (H, W, 3) and the reduced whole beside it.

    Args:
        reduced: what `reduce_whole` makes of the image at `content_side`.
        distorted: whether it brings distorted copies along.
    """
    cut = _Cut.draw(rgb, recipe, rng, whole_side=int(content_side * _WHOLE_SHARE))
    view = View(cut.crop(rgb), cut.whole(reduced))
    if not distorted:
        return view
    kind = str(rng.choice(sorted(DISTORTIONS)))
    mild = rng.uniform(0.1, 0.6)
    severities = (mild, rng.uniform(mild + 0.2, 1.0))
    square = _draw_square(recipe.crop, rng) if rng.random() < 0.5 else None
    seed = int(rng.integers(2**63))
    # A square is cut from a distorted crop: nobody looks at the rest of it.
    unit = to_unit(to_chw(rgb if square is None else view.crop))
    copies = []
    for severity in severities:
        copy = distort(unit, kind, severity, seed=seed)
        if square is None:
            reduced = _pixels(content_view(copy[None], side=content_side)[0])
            copies.append(Copy(cut.crop(_pixels(copy)), cut.whole(reduced), severity))
        else:
            assert view.whole is not None
            pasted = _pasted(view.crop, _pixels(copy), square)
            copies.append(Copy(pasted, view.whole, severity))
    return View(view.crop, view.whole, tuple(copies), square)


@dataclass(frozen=True)
class _Cut:
    """Where a local view is taken: from the image resized to (height, width).

    Attributes:
        detail: side of the square that has as many pixels as a reduced copy; infinite for others.
    """

    detail: float
    height: int
    width: int
    top: int
    left: int
    side: int
    flip: bool
    whole_side: int
    whole_at: tuple[float, float]  # of the free play, in [0, 1)

    @classmethod
    def draw(cls, rgb: RGB, recipe: Recipe, rng: np.random.Generator, *, whole_side: int) -> _Cut:
        height, width = rgb.shape[:2]
        chance, strength, ratio = rng.random(), rng.random(), 1.0
        if chance < recipe.reduce_prob:
            ratio = 0.5**strength
        elif chance < recipe.reduce_prob + recipe.enlarge_prob:
            ratio = 2.0**strength
        ratio = max(ratio, recipe.crop / min(height, width))
        detail = ratio * math.sqrt(height * width) if ratio < 1 else math.inf
        height, width = (max(recipe.crop, round(side * ratio)) for side in (height, width))
        return cls(
            detail,
            height,
            width,
            int(rng.integers(height - recipe.crop + 1)),
            int(rng.integers(width - recipe.crop + 1)),
            recipe.crop,
            bool(rng.random() < recipe.flip_prob),
            whole_side,
            (rng.random(), rng.random()),
        )

    def crop(self, rgb: RGB) -> RGB:
        """Cut the square out; only the pixels that it needs are resized."""
        height, width = rgb.shape[:2]
        bottom, right = self.top + self.side, self.left + self.side
        if (self.height, self.width) == (height, width):
            found = rgb[self.top : bottom, self.left : right]
        else:
            down, across = height / self.height, width / self.width
            box = (self.left * across, self.top * down, right * across, bottom * down)
            size = (self.side, self.side)
            found = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC, box=box))
        return found[:, ::-1] if self.flip else found

    def whole(self, reduced: RGB) -> RGB:
        """Cut a square of `whole_side` out of the reduced whole.

        What a copy smaller than that has lost is lost here too.
        """
        own, (height, width) = self.whole_side, reduced.shape[:2]
        ratio = self.detail / math.sqrt(height * width)
        if ratio < 1:
            small = [max(MIN_SIDE, round(side * ratio)) for side in (width, height)]
            shrunk = Image.fromarray(reduced).resize(small, Image.Resampling.BICUBIC)
            enlarged = shrunk.resize((width, height), Image.Resampling.BICUBIC)
            reduced = np.asarray(enlarged)
        if min(height, width) < own:  # a long image: enlarged until its short side fits
            ratio = own / min(height, width)
            height, width = (max(own, round(side * ratio)) for side in (height, width))
            resized = Image.fromarray(reduced).resize((width, height), Image.Resampling.BICUBIC)
            reduced = np.asarray(resized)
        top, left = (
            int(play * (side - own + 1))
            for play, side in zip(self.whole_at, (height, width), strict=True)
        )
        found = reduced[top : top + own, left : left + own]
        return found[:, ::-1] if self.flip else found


def _draw_square(side: int, rng: np.random.Generator) -> tuple[int, int, int]:
    places = side // PLACE
    own = max(1, int(places * rng.uniform(0.25, 0.6)))
    top, left = (int(rng.integers(places - own + 1)) for _ in range(2))
    return top, left, own


def _pasted(crop: RGB, copy: RGB, square: tuple[int, int, int]) -> RGB:
    top, left, side = (PLACE * places for places in square)
    pasted = crop.copy()
    pasted[top : top + side, left : left + side] = copy[top : top + side, left : left + side]
    return pasted


def _pixels(unit: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = (unit * 255).round().byte().permute(1, 2, 0).numpy()
    return pixels


def stacked(pixels: list[RGB]) -> Tensor:
    """Return images of one size as a uint8 batch (B, 3, H, W)."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
