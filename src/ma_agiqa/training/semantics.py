"""The semantic vectors of a training: taken from a feature store, checked before it starts.

What this file does not do: extract (`features/extract.py`).

Shapes: n images, K questions, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ma_agiqa.config import ModelConfig
from ma_agiqa.errors import FeatureError, UsageError
from ma_agiqa.features.source import questions_of as questions_of
from ma_agiqa.features.source import vectors_of as vectors_of
from ma_agiqa.features.store import FeatureStore
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


def network_arguments(store: FeatureStore | None) -> dict[str, Any]:
    """Return the arguments of a new network that follow from the store."""
    if store is None:
        return {}
    return {"semantics": len(store.header.questions), "semantic_width": store.header.width}
