"""The semantic vectors of a training: taken from a feature store, checked before it starts.

What this file does not do: extract (`features/extract.py`).

Shapes: n images, K questions, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ma_agiqa.config import ModelConfig
from ma_agiqa.data.samples import Samples
from ma_agiqa.data.splits import PROMPT
from ma_agiqa.errors import DataError, FeatureError, UsageError
from ma_agiqa.features.content import hash_files, key_of
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.lmm.encoder import Question, from_record
from ma_agiqa.text import join_some
from ma_agiqa.training.starts import PAPER_SEMANTIC_WIDTH, PAPER_SEMANTICS, Start


def open_store(start: Start, path: Path | None) -> FeatureStore | None:
    """Open the store that a training takes its vectors from, if its network takes any.

    Raises:
        UsageError: a store is missing or of no use here.
        FeatureError: the store is not there or damaged, or its encoder, questions or width
            are not those of the model to be fine-tuned.
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
    store = FeatureStore.open(path)
    if start.config is not None:
        _require_fit(store, start.config)
    return store


def _require_fit(store: FeatureStore, config: ModelConfig) -> None:
    """Refuse a store whose vectors a trained network does not know."""
    if config.encoder:
        store.header.require_encoder(config.encoder, source=store.path)
    wanted = questions_of(store, config)
    width = int(config.network.get("semantic_width", PAPER_SEMANTIC_WIDTH))
    number = int(config.network.get("semantics", PAPER_SEMANTICS))
    store.header.columns_of(wanted, source=store.path)
    if (len(wanted), store.header.width) != (number, width):
        raise FeatureError(
            f"holds {len(wanted)} vectors of width {store.header.width} per image, {config.name} "
            f"takes {number} of width {width}",
            path=store.path,
            remedy="extract with the model's own LMM and questions into a new store",
        )


def questions_of(store: FeatureStore, config: ModelConfig | None) -> tuple[Question, ...]:
    """Return the questions whose vectors are wanted, in order: the model's, or the store's."""
    if config is None or not config.questions:
        return store.header.questions
    return from_record(config.questions, source=config.name)


def network_arguments(store: FeatureStore | None) -> dict[str, Any]:
    """Return the arguments of a new network that follow from the store."""
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


def vectors_of(
    store: FeatureStore | None, samples: Samples, *, config: ModelConfig | None = None
) -> Tensor | None:
    """Return the vectors of all images, (n, K, D) float16; None without a store.

    Args:
        config: of the model to be fine-tuned, whose questions count.

    Raises:
        FeatureError: images are not in the store, or their vectors are not finite; the first
            few are named.
    """
    if store is None:
        return None
    hashes = keys_of(store, samples)
    absent = set(store.missing(hashes))
    if absent:
        names = [n for n, sha in zip(samples.name, hashes, strict=True) if sha in absent]
        broken = f"; {len(store.damaged)} of its shards are damaged" if store.damaged else ""
        raise FeatureError(
            f"has no vectors of {len(names)} of {len(samples)} images of {samples.dataset}: "
            f"{join_some(names)}{broken}",
            path=store.path,
            remedy="run `ma-agiqa extract` again, it adds what is missing",
        )
    vectors = store.get(hashes, questions=questions_of(store, config))
    finite = vectors.isfinite().flatten(1).all(1).tolist()
    if not all(finite):
        names = [name for name, good in zip(samples.name, finite, strict=True) if not good]
        raise FeatureError(
            f"vectors of {len(names)} of {len(samples)} images of {samples.dataset} hold NaN or "
            f"infinity: {join_some(names)}",
            path=store.path,
            remedy="the store was written by something else or damaged: extract into a new one",
        )
    return vectors
