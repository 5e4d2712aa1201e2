"""The semantic vectors of a training: taken from a feature store, checked before it starts.

What this file does not do: extract (`features/extract.py`).

Shapes: n images, K questions, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ma_agiqa.data.samples import Samples
from ma_agiqa.errors import FeatureError, UsageError
from ma_agiqa.features.content import hash_files
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.text import some
from ma_agiqa.training.recipe import Recipe
from ma_agiqa.training.starts import Start


def open_store(start: Start, path: Path | None, recipe: Recipe) -> FeatureStore | None:
    """Open the store that a training takes its vectors from, if its network takes any.

    Raises:
        UsageError: a store is missing or of no use here, or the recipe makes up images that
            there can be no vectors of.
        FeatureError: the store is not there or damaged.
    """
    if not start.semantics:
        if path is not None:
            raise UsageError("this network takes no semantic features: leave out --store")
        return None
    if path is None:
        raise UsageError(
            "this network takes semantic features",
            remedy="`ma-agiqa extract` them, then give --store DIR",
        )
    for name in ("mixup", "degraded"):
        if getattr(recipe, name):
            raise UsageError(
                f"recipe: {name} makes images that the store has no vectors of",
                remedy=f"--set {name}=0",
            )
    return FeatureStore.open(path)


def network_arguments(store: FeatureStore | None) -> dict[str, Any]:
    """Return the arguments of the network that follow from the store."""
    if store is None:
        return {}
    return {"semantics": len(store.header.questions), "semantic_width": store.header.width}


def vectors_of(store: FeatureStore | None, samples: Samples) -> Tensor | None:
    """Return the vectors of all images, (n, K, D) float16; None without a store.

    Raises:
        FeatureError: images are not in the store; the first few are named.
    """
    if store is None:
        return None
    hashes = hash_files(samples.path)
    absent = set(store.missing(hashes))
    if absent:
        names = [n for n, sha in zip(samples.name, hashes, strict=True) if sha in absent]
        raise FeatureError(
            f"has no vectors of {len(names)} of {len(samples)} images of {samples.dataset}: "
            f"{some(names)}",
            path=store.path,
            remedy="run `ma-agiqa extract` again, it adds what is missing",
        )
    return store.get(hashes)
