"""A score with a gradient, to fine-tune a generator of images by.

A picture gets the score that the scorer would give its file, and its pixels the gradient of that
score. What this file does not do: judge whether a picture shows what was asked for.

Shapes: B images, H, W height and width in pixels.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from ma_agiqa import devices
from ma_agiqa.errors import ImageError
from ma_agiqa.images import ROUNDING
from ma_agiqa.models import preprocess as preprocessing
from ma_agiqa.scorer import load


class Reward(nn.Module):
    """Scores of images, differentiable in the pixels; frozen, and always in eval mode.

    It starts on the CPU and moves with `.to(device)`, alone or inside another module. It computes
    in float32, inside autocast too.

    Args:
        model: name, directory or Hub id, as `ma_agiqa.load` takes them; one without semantic
            vectors.
        normalise: return the position on the model's scale, 0 at its low and 1 at its high end.
            Scores are not cut off there, so neither is this.

    Raises:
        UsageError, ModelError: as of `ma_agiqa.load`.
    """

    def __init__(
        self, model: str | os.PathLike[str] = "compact", *, normalise: bool = False
    ) -> None:
        super().__init__()
        scorer = load(model, device="cpu")
        self.network = scorer.model.requires_grad_(False)
        self.preprocess = scorer.config.preprocess
        self.scale = scorer.config.scale
        self.normalise = normalise
        self.eval()

    def train(self, mode: bool = True) -> Reward:
        """Stay in eval mode, also inside a module that trains."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Score images (B, 3, H, W) with values in [0, 1]; return (B,).

        Raises:
            ImageError: another shape or range, NaN, or too small for the model.
        """
        check(images)
        device = images.device
        with torch.autocast(device.type, enabled=False), devices.full_float32(device):
            inputs = preprocessing.prepare_with_gradient(images, self.preprocess)
            score: Tensor = self.network(inputs).score
        if self.normalise:
            return (score - self.scale.low) / (self.scale.high - self.scale.low)
        return score


def check(images: Tensor) -> None:
    """Raise ImageError unless these are images (B, 3, H, W) with values in [0, 1]."""
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or 0 in shape or not images.is_floating_point():
        raise ImageError(
            f"has shape {shape} and type {images.dtype}",
            path="tensor",
            remedy="give floats from 0 to 1 of shape (B, 3, H, W)",
        )
    lows, highs = images.detach().flatten(1).aminmax(dim=1)
    wrong = ~((lows >= -ROUNDING) & (highs <= 1 + ROUNDING))  # also true of NaN
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ImageError(
            f"has values from {lows[first]:g} to {highs[first]:g}, outside 0 to 1",
            path=f"image[{first}]",
            remedy="undo the normalisation and clamp to 0 to 1",
        )
