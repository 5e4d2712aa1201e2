"""Why an image scored as it did, from what the network returned beside the score.

Every figure here is arithmetic of the forward pass, not an estimate made afterwards: what the
experts add and a bias sum to the score, and the places of the map sum to what the visual
expert adds. For the paper's network the map is exact as arithmetic and approximate as
geography, because the scrambled attention residual mixes places.

Shapes: B images, E experts, h, w rows and columns of a map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ma_agiqa.config import ModelConfig
from ma_agiqa.experts.compact import CompactQuality
from ma_agiqa.experts.convolutional import LocalQuality


def explanations(output: Any, config: ModelConfig) -> list[dict[str, Any]]:
    """Return, for each image of a batch, the fields of `Score` that explain it.

    Args:
        output: what the network returned; an unknown record explains nothing.
        config: names the experts of a paper network by its questions.
    """
    if isinstance(output, LocalQuality):
        return _of_local_quality(output.score, output.quality_map, output.weight_map)
    if isinstance(output, CompactQuality):
        return _of_local_quality(output.score, *output.local())
    from ma_agiqa.model import Assessment  # brings the Hub library, which `compact` never needs

    if isinstance(output, Assessment):
        return _of_assessment(output, (*config.questions, "visual"))
    return [{} for _ in range(len(output.score))]


def _of_local_quality(
    score_B: Tensor, quality_map: Tensor, weight_map: Tensor
) -> list[dict[str, Any]]:
    quality, weight = _arrays(quality_map), _arrays(weight_map)
    return [
        {
            "contributions": {"visual": float(score)},
            "contribution_map": q * w,
            "quality_map": q.copy(),
            "weight_map": w.copy(),
        }
        for score, q, w in zip(score_B.tolist(), quality, weight, strict=True)
    ]


def _of_assessment(output: Any, experts: tuple[str, ...]) -> list[dict[str, Any]]:
    parts, maps = output.contributions.tolist(), _arrays(output.patch_contributions)
    return [
        {
            "contributions": {**dict(zip(experts, row, strict=True)), "bias": bias},
            "contribution_map": patches.copy(),
        }
        for row, bias, patches in zip(parts, output.bias.tolist(), maps, strict=True)
    ]


def _arrays(maps: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    array: np.ndarray[Any, np.dtype[np.float32]] = maps.float().cpu().numpy()
    return array
