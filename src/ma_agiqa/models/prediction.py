"""What every model is asked, and what it returns: a score and the exact arithmetic behind it.

Every figure here is arithmetic of the forward pass, not an estimate made afterwards: the
experts' contributions and the bias sum to the score, and the map sums to the contribution of the
expert that sees places, up to `map_constant`.

Shapes: B images, E experts, R readouts, h, w rows and columns of a map.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn


class Prediction(NamedTuple):
    """A batch of scores on the scale the model was trained on.

    Attributes:
        score: (B,), not cut off at the ends of the scale.
        contributions: what each expert adds, (B, E), in the order of the model's `experts`; with
            `bias` they sum to `score`.
        bias: what the readout adds whatever the image, (B,).
        gate: weight of each expert, (B, E).
        contribution_map: what each place adds to the last expert's contribution, (B, h, w).
        map_constant: the rest of that contribution, (B,); None where there is none.
        weight_map: how much each place counts, (B, h, w), sums to one per image; None for a model
            whose places have no weights.
        scores: by the readout of each data set that the network learned from, (B, R), and
        likeness: logits of how much the image is like those of each, (B, R), by which the
            readouts are blended; None for a network of one readout.
    """

    score: Tensor
    contributions: Tensor
    bias: Tensor
    gate: Tensor
    contribution_map: Tensor
    map_constant: Tensor | None = None
    weight_map: Tensor | None = None
    scores: Tensor | None = None
    likeness: Tensor | None = None


class QualityNetwork(nn.Module):
    """What the rest of the package knows of a network; its forward returns a `Prediction`.

    Attributes:
        experts: names of its own experts, in order, after those of stored semantic vectors; the
            last one sees places.
        alone: whether a scorer on a CPU had better compute images one by one, side by side on a
            thread each: many small operations gain little from several threads.
        content_side: pixels; the second view of an image that it takes beside a crop in training
            has the area of a square of this side. None for a network of one view.
        readouts: how many data sets it can learn from with a readout each; with one, several sets
            share it.
        exported: whether it is a file that onnxruntime runs: on a CPU, and without gradients.
    """

    experts: tuple[str, ...] = ("visual",)
    alone: bool = False
    content_side: int | None = None
    readouts: int = 1
    exported: bool = False

    def depth_of(self, name: str) -> int:
        """Return how deep a parameter lies: 0 in the heads, more the nearer to the pixels."""
        raise NotImplementedError

    def load_backbone(self, source: str) -> None:
        """Fill what stands on published weights: `published`, `random`, or a file.

        Raises:
            UsageError: there is nothing to fill, or not from a file.
            MissingExtraError, ModelError: the weights cannot be had or do not fit.
        """
        raise NotImplementedError

    def calibrate(self, images: Iterable[Tensor]) -> None:
        """See some training images, (3, H, W) in [0, 1], before a new network is trained."""


def explanations(prediction: Prediction, experts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return, for each image of a batch, the fields of `Score` that explain it.

    Where places have weights there is a `quality_map` too: the score that the image would have if
    all of it looked like this place. Its mean under `weight_map` is the score.

    Args:
        experts: their names, in order.
    """
    contributions, bias = _arrays(prediction.contributions), prediction.bias.tolist()
    maps = _arrays(prediction.contribution_map)
    found: list[dict[str, Any]] = [
        {
            "contributions": {**dict(zip(experts, map(float, row), strict=True)), "bias": constant},
            "contribution_map": places.copy(),
        }
        for row, constant, places in zip(contributions, bias, maps, strict=True)
    ]
    if prediction.weight_map is not None:
        elsewhere = _arrays(prediction.score - prediction.contributions[:, -1])
        weights = _arrays(prediction.weight_map)
        for fields, places, weight, rest in zip(found, maps, weights, elsewhere, strict=True):
            fields["quality_map"] = places / weight + rest
            fields["weight_map"] = weight.copy()
    return found


def _arrays(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.detach().float().cpu().numpy()
    return array
