"""What a training starts from: the network, its preprocessing, its recipe, its weights.

    NAME      of the table in `models/registry.py`: a new network, whose trunk starts from published
              ImageNet weights unless told otherwise
    DIR       a model directory or Hub id, to be fine-tuned: its weights, architecture,
              preprocessing, questions and scale

Any argument of a new network may be changed by name: `gate=softmax`, `visual.window=7`.

Semantic vectors come from a feature store, which is checked here, before anything starts. This file
neither trains nor extracts.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ma_agiqa.config import ModelConfig
from ma_agiqa.errors import FeatureError, UsageError
from ma_agiqa.features.source import questions_of
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.models import checkpoint
from ma_agiqa.models.prediction import QualityNetwork
from ma_agiqa.models.registry import MODELS, Blueprint, find_directory, is_exported
from ma_agiqa.text import did_you_mean
from ma_agiqa.types import Scale

PAPER_SEMANTICS, PAPER_SEMANTIC_WIDTH = 2, 4096  # where a configuration does not say


@dataclass(frozen=True)
class Start(Blueprint):
    """What a training starts from: a blueprint, or a trained model's own.

    Attributes:
        directory, config: of the model to be fine-tuned; None for a new network.
    """

    directory: Path | None = None
    config: ModelConfig | None = None


def find_start(model: str) -> Start:
    """Return what a name in `registry.MODELS`, a model directory or a Hub id starts from.

    Raises:
        UsageError: none of these.
        ModelError: the directory is damaged, or the Hub id cannot be had.
    """
    if model in MODELS:
        return Start(**vars(MODELS[model].blueprint))
    if not Path(model).is_dir() and model.count("/") != 1:
        raise UsageError(
            f"nothing named {model!r} to train{did_you_mean(model, MODELS, 'known are')}",
            remedy="or give a model directory, to fine-tune it",
        )
    directory = Path(model) if Path(model).is_dir() else find_directory(model)
    config = checkpoint.read_config(directory)
    if is_exported(directory):
        raise UsageError(
            f"{directory}: an exported model cannot be trained",
            remedy="give the model directory that it was exported from",
        )
    compact = config.architecture == "compact"
    return Start(
        architecture=config.architecture,
        network=lambda drop, scale, sets: dict(config.network),
        preprocess=config.preprocess,
        recipe="compact-tune" if compact else "modern-tune",
        semantics=not compact and config.network.get("semantics", PAPER_SEMANTICS) > 0,
        directory=directory,
        config=config,
    )


def initial_network(start: Start, config: ModelConfig, *, backbone: str | None) -> QualityNetwork:
    """Return the network a training begins with; random weights come from torch's generator."""
    if start.directory is not None:
        return checkpoint.load(start.directory)[0]
    model = checkpoint.build(config)
    model.load_backbone(backbone or "published")
    return model


def check_arguments(start: Start, settings: Iterable[str]) -> None:
    """See whether a new network could be built with these arguments, without memory for it.

    Raises:
        UsageError: they are not of the form key=value, or the network takes none.
        ModelError: the network has no such argument, or they do not fit together.
    """
    settings = tuple(settings)
    if not settings:
        return
    network = with_arguments(start.network(0.0, Scale(0.0, 1.0), 1), settings)
    with torch.device("meta"):
        checkpoint.build_architecture(start.architecture, network, source="network")


def with_arguments(network: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Return network arguments changed by `key=value` strings.

    A dot leads into a nested mapping; a value is JSON, or else text: `visual.taps=[5,8]`.
    Whether the network knows the argument is what `check_arguments` says.

    Raises:
        UsageError: not of the form key=value, or a dot leads into something else.
    """
    changed = copy.deepcopy(dict(network))
    for setting in settings:
        key, equals, text = setting.partition("=")
        *outer, name = key.split(".")
        if not equals or not all([*outer, name]):
            raise UsageError(f"expected key=value, got {setting!r}")
        place = changed
        for step in outer:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise UsageError(f"network: {step!r} in {key!r} has no arguments of its own")
        try:
            place[name] = json.loads(text)
        except ValueError:
            place[name] = text
    return changed


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
