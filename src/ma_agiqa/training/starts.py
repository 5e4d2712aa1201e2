"""What a training starts from: the network, its preprocessing, its recipe, its weights.

    compact   the default model; both trunks start from published ImageNet weights
    visual    the paper's visual expert without semantics; its vision transformer starts from
              published ImageNet weights unless told otherwise
    paper     the whole network of the paper: the visual expert and the semantic vectors of a
              feature store
    DIR       a model directory or Hub id, to be fine-tuned: its weights, architecture,
              preprocessing, questions and scale

Any argument of a new network may be changed by name: `gate=softmax`, `visual.window=7`.

What this file does not do: train.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ma_agiqa import presets
from ma_agiqa.config import ModelConfig, Preprocess
from ma_agiqa.errors import UsageError
from ma_agiqa.models import checkpoint
from ma_agiqa.models.prediction import QualityNetwork
from ma_agiqa.text import did_you_mean
from ma_agiqa.types import Scale

NATIVE = Preprocess(kind="native", min_side=32, max_pixels=1024 * 1024)
"""Pictures at their own resolution, where noise, blur and artefacts live."""

PAPER_SEMANTICS, PAPER_SEMANTIC_WIDTH = 2, 4096  # where a configuration does not say


@dataclass(frozen=True)
class Start:
    """One kind of network that can be trained.

    Attributes:
        architecture: name in the table of `models/checkpoint.py`.
        network: dropout rate and scale of the scores -> arguments of the architecture.
        recipe: name of the default recipe.
        backbone: whether it stands on a network with published weights.
        semantics: whether it takes semantic vectors; how many and how wide is known from
            the store they come from.
        directory, config: of the model to be fine-tuned; None for a new network.
    """

    architecture: str
    network: Callable[[float, Scale], dict[str, Any]]
    preprocess: Preprocess
    recipe: str
    backbone: bool
    semantics: bool = False
    directory: Path | None = None
    config: ModelConfig | None = None


STARTS: dict[str, Start] = {
    "compact": Start(
        architecture="compact",
        network=lambda drop, scale: {"low": scale.low, "high": scale.high, "drop": drop},
        preprocess=NATIVE,
        recipe="compact",
        backbone=True,
    ),
    "visual": Start(
        architecture="ma-agiqa",
        network=lambda drop, scale: {"semantics": 0, "visual": {"dropout": drop}},
        preprocess=Preprocess(kind="paper"),
        recipe="paper",
        backbone=True,
    ),
    "paper": Start(
        architecture="ma-agiqa",
        network=lambda drop, scale: {
            "visual": {"dropout": drop},
            "dropout": drop,
        },
        preprocess=Preprocess(kind="paper"),
        recipe="paper",
        backbone=True,
        semantics=True,
    ),
}


def find(model: str) -> Start:
    """Return what a name in `STARTS`, a model directory or a Hub id starts from.

    Raises:
        UsageError: none of these.
        ModelError: the directory is damaged, or the Hub id cannot be had.
    """
    if model in STARTS:
        return STARTS[model]
    if not Path(model).is_dir() and model.count("/") != 1:
        raise UsageError(
            f"nothing named {model!r} to train{did_you_mean(model, STARTS, 'known are')}",
            remedy="or give a model directory, to fine-tune it",
        )
    directory = presets.find(model)
    config = checkpoint.read_config(directory)
    compact = config.architecture == "compact"
    return Start(
        architecture=config.architecture,
        network=lambda drop, scale: dict(config.network),
        preprocess=config.preprocess,
        recipe="compact-tune" if compact else "modern-tune",
        backbone=False,
        semantics=not compact and config.network.get("semantics", PAPER_SEMANTICS) > 0,
        directory=directory,
        config=config,
    )


def initial_network(start: Start, config: ModelConfig, *, backbone: str) -> QualityNetwork:
    """Return the network a training begins with; random weights come from torch's generator."""
    if start.directory is not None:
        return checkpoint.load(start.directory)[0]
    model = checkpoint.build(config)
    if start.backbone:
        model.load_backbone(backbone)
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
    network = with_arguments(start.network(0.0, Scale(0.0, 1.0)), settings)
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
