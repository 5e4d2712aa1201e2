"""The semantic vectors of a training: taken from a feature store, checked before it starts.

What this file does not do: extract (`features/extract.py`).

Shapes: n images, K questions, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ma_agiqa.data.samples import Samples
from ma_agiqa.data.splits import PROMPT
from ma_agiqa.errors import DataError, FeatureError, UsageError
from ma_agiqa.features.content import hash_files, key_of
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


def keys_of(store: FeatureStore, samples: Samples) -> list[str]:
    """Return what the vectors of each image are found by in the store.

    Raises:
        DataError: the store's questions quote prompts and the data set has none.
    """
    hashes = hash_files(samples.path)
    if not store.header.quotes_prompts:
        return hashes
    if PROMPT not in samples.groups:
        raise DataError(
            f"{samples.dataset} has no prompts, and the questions of {store.path} quote them",
            remedy="--prompt-column NAME",
        )
    return [key_of(sha, words) for sha, words in zip(hashes, samples.groups[PROMPT], strict=True)]


def vectors_of(store: FeatureStore | None, samples: Samples) -> Tensor | None:
    """Return the vectors of all images, (n, K, D) float16; None without a store.

    Raises:
        FeatureError: images are not in the store; the first few are named.
    """
    if store is None:
        return None
    hashes = keys_of(store, samples)
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
