"""The one table of models: what a name stands for, and how a name becomes a directory.

A name may ship weights (`directory`), and says how a new network of its kind is built and trained
(`blueprint`). What a model directory holds stands in its own `config.json`; the table of
`ARCHITECTURES` leads from there to the code. This file reads no weights (`checkpoint.py`).

On the Hub and here alike, a directory is an exported model if it has a graph and no weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ma_agiqa.config import Preprocess
from ma_agiqa.errors import ModelError, UsageError, require
from ma_agiqa.hub import fetch, holds
from ma_agiqa.text import did_you_mean
from ma_agiqa.types import Scale

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
GRAPH = "model.onnx"
"""The files of a model directory, see `checkpoint.py`."""

ASSETS = Path(__file__).resolve().parent.parent / "assets"

ARCHITECTURES: dict[str, str] = {
    "compact": "ma_agiqa.models.compact.model:CompactModel",
    "ma-agiqa": "ma_agiqa.models.paper.model:MAAGIQA",
}
"""Architecture name in `config.json` -> module and class; the class takes `config.network`."""


@dataclass(frozen=True)
class Blueprint:
    """How a network is built and trained.

    Attributes:
        architecture: name in `ARCHITECTURES`.
        network: dropout rate, scale of the scores, number of data sets -> arguments of the
            architecture.
        preprocess: what an image becomes before the network sees it.
        recipe: name of the default recipe, in `training/recipe.py`.
        semantics: whether it takes semantic vectors; how many and how wide is known from
            the feature store they come from.
    """

    architecture: str
    network: Callable[[float, Scale, int], dict[str, Any]]
    preprocess: Preprocess
    recipe: str
    semantics: bool = False


@dataclass(frozen=True)
class ModelEntry:
    """One named model.

    Attributes:
        summary: what it is, in one line.
        needs: what must be there before it runs.
        licence: terms of its weights.
        source: where its weights come from.
        blueprint: how a new network of this kind is built and trained.
        directory: the model directory inside this package, or None if it does not ship.
    """

    summary: str
    needs: str
    licence: str
    source: str
    blueprint: Blueprint
    directory: Path | None = None


MODELS: dict[str, ModelEntry] = {
    "compact": ModelEntry(
        summary="MA-AGIQA in small: a distortion and a content expert on EfficientNet-Lite0, gated",
        needs="nothing: ships with the package",
        licence="Apache-2.0",
        source="trained by this project on AGIQA-3K (paper split, train) and LIVE In the Wild, "
        "from ImageNet weights of EfficientNet-Lite0 (Apache-2.0)",
        blueprint=Blueprint(
            architecture="compact",
            network=lambda drop, scale, sets: {
                "low": scale.low,
                "high": scale.high,
                "drop": drop,
                "readouts": sets,
                "padding": "reflect",
            },
            # Pictures at their own resolution, where noise, blur and artefacts live.
            preprocess=Preprocess(kind="native", min_side=32, max_pixels=1024 * 1024),
            recipe="compact",
        ),
        directory=ASSETS / "compact",
    ),
    "visual": ModelEntry(
        summary="the visual expert of MA-AGIQA alone: ViT-B/8 and Swin blocks, no semantics",
        needs="`ma-agiqa train --model visual`, and the extra `paper`",
        licence="none shipped; its vision transformer starts from timm's ImageNet weights",
        source="own training",
        blueprint=Blueprint(
            architecture="ma-agiqa",
            network=lambda drop, scale, sets: {"semantics": 0, "visual": {"dropout": drop}},
            preprocess=Preprocess(kind="paper"),
            recipe="paper",
        ),
    ),
    "paper": ModelEntry(
        summary="MA-AGIQA as published: ViT-B/8 expert and two mPLUG-Owl2 vectors",
        needs="`ma-agiqa convert` on the official checkpoint, and the extra `paper`",
        licence="set by its authors: code Apache-2.0, for the weights ask them; the language "
        "model inside mPLUG-Owl2 is under the LLaMA 2 community licence",
        source="checkpoint (AGIQA-3K, 30 epochs): Google Drive 1YT9Fryok-ozYPIvT1V3gEnEF-Ij3UxPp; "
        "mPLUG-Owl2: Hub MAGAer13/mplug-owl2-llama2-7b",
        blueprint=Blueprint(
            architecture="ma-agiqa",
            network=lambda drop, scale, sets: {"visual": {"dropout": drop}, "dropout": drop},
            preprocess=Preprocess(kind="paper"),
            recipe="paper",
            semantics=True,
        ),
    ),
}


def is_exported(directory: Path) -> bool:
    """Return whether a model directory has a graph in place of weights."""
    return (directory / GRAPH).is_file() and not (directory / WEIGHTS).is_file()


def weights_file(directory: Path) -> Path:
    """Return the file that holds the weights of a model directory, in a graph or alone."""
    return directory / (GRAPH if is_exported(directory) else WEIGHTS)


def find_directory(
    model: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Return the model directory that a name in `MODELS`, a local folder or a Hub id stands for.

    A Hub id (`owner/name`) is fetched through `huggingface_hub`, which honours `HF_ENDPOINT`
    and `HF_HUB_OFFLINE` and keeps a cache. A repository without weights gives its graph.

    Args:
        revision: branch, tag or commit of a Hub id; refused for anything else.
        cache_dir: of the Hub library, for a Hub id; so are the next three.
        force_download: fetch what is in the cache again.
        local_files_only: ask nobody; what is not in the cache is missing.
        token: for a private repository.

    Raises:
        UsageError: no such name, or one that does not ship; close matches are listed.
        ModelError: the Hub id could not be fetched, or is that of something else.
        MissingExtraError: it is an exported model, and onnxruntime is not installed.
    """
    name = str(model)
    if name in MODELS or Path(model).is_dir():
        if revision is not None:
            raise UsageError(f"--revision applies to models from the Hub, not to {name!r}")
        directory = MODELS[name].directory if name in MODELS else Path(model)
        if directory is None:
            raise UsageError(f"{name!r} does not ship with the package: {MODELS[name].needs}")
        if is_exported(directory):
            require("onnx", "onnxruntime")
        return directory
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        fetch_files = partial(
            fetch,
            name,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        directory = fetch_files((WEIGHTS, CONFIG, CARD))
        if (directory / WEIGHTS).is_file():
            return directory
        if not (directory / GRAPH).is_file() and (
            local_files_only or not holds(name, GRAPH, revision=revision, token=token)
        ):
            raise ModelError(
                f"this is not a model: it has neither {WEIGHTS} nor {GRAPH}",
                path=name,
                remedy="`ma-agiqa train` or `ma-agiqa export` writes a model directory",
            )
        require("onnx", "onnxruntime")
        return fetch_files((GRAPH, CONFIG, CARD))
    raise UsageError(
        f"no model named {name!r}, and no such directory{did_you_mean(name, MODELS, 'known are')}"
    )
