"""What a model directory says of its training beyond one data set: `config.training`.

    started_from   of a fine-tuned model: name, fingerprint and training set of the model it
                   started from, and the linear map that brought the human scores of the first
                   data set onto its scale
    data_sets      of several: name, target, split, number of training images, nominal scale,
                   and `from_score`, the linear map from the model's score to the set's scale
    seen_twice     images that one set trains on and another keeps for validation or test

A linear map is {"slope", "offset"}: slope * x + offset.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ma_agiqa.models import checkpoint
from ma_agiqa.training.datasets import DataSet, seen_in_training
from ma_agiqa.training.scales import LinearMap, fitted
from ma_agiqa.training.starts import Start


def training_record(
    start: Start, sets: list[DataSet], predicted: NDArray[np.float64] | None = None
) -> dict[str, Any]:
    """Return `config.training`; empty for a new network on one data set.

    Args:
        predicted: scores of the validation images of all sets, in order; without them the
            maps to the sets' scales stay unknown.
    """
    record: dict[str, Any] = {}
    if start.config is not None and start.directory is not None:
        trained = start.config.trained_on
        record["started_from"] = {
            "name": start.config.name,
            "fingerprint": checkpoint.fingerprint(start.directory),
            "trained_on": None if trained is None else f"{trained.dataset}, {trained.split}",
            "scores": _written(sets[0].to_model),
        }
    if len(sets) > 1:
        maps: list[LinearMap | None] = [None] * len(sets)
        if predicted is not None:
            ends = np.cumsum([len(one.split.val) for one in sets])[:-1]
            parts = np.split(predicted, ends)
            maps = [fitted(p, one.scores("val")) for p, one in zip(parts, sets, strict=True)]
        record["data_sets"] = [
            {
                "name": one.name,
                "target": one.target,
                "split": one.split.name,
                "images": len(one.split.train),
                "scale": [one.scale.low, one.scale.high],
                "from_score": None if way is None else _written(way),
            }
            for one, way in zip(sets, maps, strict=True)
        ]
        record["seen_twice"] = seen_in_training(sets)
    return record


def _written(way: LinearMap) -> dict[str, float]:
    return dataclasses.asdict(way)


def in_words(record: dict[str, Any]) -> str:
    """Return the record as lines of a model card, each ending the line."""
    lines = []
    if "started_from" in record:
        start = record["started_from"]
        way = LinearMap(**start["scores"])
        lines.append(
            f"- Fine-tuned from `{start['name']}` ({start['fingerprint'][:16]}, trained on "
            f"{start['trained_on']}), whose scale it keeps: human scores x were learned as "
            f"{way.slope:.6g} x {way.offset:+.6g}."
        )
    for one in record.get("data_sets", ()):
        low, high = one["scale"]
        way_back = "not fitted: the model does not order this set"
        if one["from_score"] is not None:
            way = LinearMap(**one["from_score"])
            way_back = f"{way.slope:.6g} x score {way.offset:+.6g}"
        lines.append(
            f"- Data set {one['name']}, target `{one['target']}`, {one['images']} training "
            f"images, scale {low:g} to {high:g}: {way_back} (least squares on validation)."
        )
    if record.get("seen_twice"):
        lines.append(
            f"- {record['seen_twice']} images that one data set trains on are validation or test "
            "images of another: figures on these are too good."
        )
    return "".join(line + "\n" for line in lines)
