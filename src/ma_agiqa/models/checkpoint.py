"""Model directories: weights never travel alone.

    model.safetensors   the weights; of an exported model, in their place
    model.onnx          the network with its weights, see `export/`
    config.json         architecture, preprocessing, scale, training set, versions
    README.md           model card

A directory is written beside its place and moved there whole. It is loaded strictly: a
missing or unexpected tensor, or a shape that disagrees, is an error that names it. No pickle
is ever read here.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ma_agiqa import config as configs
from ma_agiqa.config import FORMAT_VERSION, ModelConfig
from ma_agiqa.errors import ModelError, OutputError, first_line, install_command
from ma_agiqa.files import recover_folder, replace_folder, sha256
from ma_agiqa.models.exported import ExportedNetwork
from ma_agiqa.models.prediction import QualityNetwork
from ma_agiqa.models.registry import (
    ARCHITECTURES,
    CARD,
    CONFIG,
    GRAPH,
    WEIGHTS,
    is_exported,
    weights_file,
)
from ma_agiqa.text import did_you_mean, join_some
from ma_agiqa.types import COVERAGE

STORED = (torch.float32, torch.float16, torch.bfloat16)
"""What weights may be stored as; float8 has too few bits for a score."""

MOST_PIXELS, MOST_SIZE = 2**31, 2**16
SAVE_SECONDS = 600.0
"""No save takes as long: what is older was left by one that was killed."""


def build(config: ModelConfig, *, source: str | Path = "config") -> QualityNetwork:
    """Build the network a configuration describes, with fresh random weights."""
    return build_architecture(config.architecture, config.network, source=source)


def build_architecture(
    architecture: str, network: Mapping[str, Any], *, source: str | Path
) -> QualityNetwork:
    """Build a network from its name in `ARCHITECTURES` and its arguments.

    Raises:
        ModelError: unknown name or argument, or arguments that do not fit together.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"unknown architecture {architecture!r}, known: {sorted(ARCHITECTURES)}", path=source
        )
    network_class = _class(architecture)
    known = list(inspect.signature(network_class).parameters)
    for argument in network:
        if argument not in known:
            raise ModelError(
                f"{architecture} has no argument {argument!r}"
                f"{did_you_mean(argument, known, 'it has')}",
                path=source,
            )
    try:
        model: QualityNetwork = network_class(**network)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise ModelError(
            f"{architecture} cannot be built: {first_line(error)}", path=source
        ) from error
    return model


def _class(architecture: str) -> type[QualityNetwork]:
    module, name = ARCHITECTURES[architecture].split(":")
    found: type[QualityNetwork] = getattr(importlib.import_module(module), name)
    return found


def complete(architecture: str, network: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with the defaults of today, so that no later default changes a score."""
    parameters = inspect.signature(_class(architecture)).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.default is not one.empty}
    return {**defaults, **network}


def read_config(directory: str | Path) -> ModelConfig:
    """Read and check `config.json` of a model directory."""
    directory = Path(directory)
    path = directory / CONFIG
    if not directory.is_dir():
        raise ModelError("no such model directory", path=directory)
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError as error:
        raise ModelError(
            f"this is not a model directory: it has no {CONFIG}",
            path=directory,
            remedy="`ma-agiqa models` lists what can be loaded",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot be read: {error}", path=path) from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ModelError(
            f"written in format {version}, this version reads up to {FORMAT_VERSION}",
            path=path,
            remedy=install_command(),
        )
    config = configs.from_dict(ModelConfig, data, source=str(path))
    _require_ranges(config, path)
    return config


def read_card(directory: str | Path) -> str:
    """Return the text of a model directory's card; nothing where there is none."""
    path = Path(directory) / CARD
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read: {first_line(error)}", path=path) from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _require_ranges(config: ModelConfig, path: Path) -> None:
    """Refuse numbers that no training writes, before anything is made of them."""
    scale, prepare = config.scale, config.preprocess
    wrong = []
    if not (math.isfinite(scale.low) and math.isfinite(scale.high) and scale.low < scale.high):
        wrong.append(f"scale from {scale.low} to {scale.high}")
    if not 1 <= prepare.min_side <= MOST_PIXELS:
        wrong.append(f"preprocess.min_side {prepare.min_side}")
    if not 0 <= prepare.max_pixels <= MOST_PIXELS:
        wrong.append(f"preprocess.max_pixels {prepare.max_pixels}")
    wrong += [f"network.{name} {size}" for name, size in _sizes(config.network) if size > MOST_SIZE]
    quantiles = () if config.trained_on is None else config.trained_on.score_quantiles
    if quantiles and (
        len(quantiles) < 2
        or not all(map(math.isfinite, quantiles))
        or any(a > b for a, b in itertools.pairwise(quantiles))
    ):
        wrong.append("score_quantiles that are not two or more ascending numbers")
    if (around := config.interval) is not None:
        if not (math.isfinite(around.half_width) and around.half_width >= 0):
            wrong.append(f"interval.half_width {around.half_width}")
        if around.coverage != COVERAGE:
            wrong.append(f"interval.coverage {around.coverage}, where {COVERAGE} is meant")
    if wrong:
        raise ModelError(f"has {join_some(wrong)}", path=path, remedy=configs.REMEDY)


def _sizes(network: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield every whole number of a network's arguments by name: sizes of what is allocated."""
    for name, value in network.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", size) for inner, size in _sizes(value))
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, int):
                yield name, one


def load(directory: str | Path) -> tuple[QualityNetwork, ModelConfig]:
    """Load a model directory; the model is on the CPU, in eval mode.

    Raises:
        ModelError: something is missing, damaged, or does not fit together.
    """
    directory = Path(directory)
    config = read_config(directory)
    if is_exported(directory):
        with torch.device("meta"):
            network = build(config, source=directory / CONFIG)
        return ExportedNetwork(directory / GRAPH, network).eval(), config
    path = directory / WEIGHTS
    try:
        weights = load_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"this model directory has no {WEIGHTS}", path=directory) from error
    except (OSError, SafetensorError) as error:
        raise ModelError(f"damaged weights: {error}", path=path) from error
    model = build(config, source=directory / CONFIG)
    _require_fit(model.state_dict(), weights, path)
    model.load_state_dict(weights)
    return model.eval(), config


def _require_fit(own: Mapping[str, Tensor], weights: dict[str, Tensor], path: Path) -> None:
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or unknown:
        raise ModelError(
            f"weights do not fit the architecture: missing {join_some(missing)}, "
            f"unknown {join_some(unknown)}",
            path=path,
        )
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise ModelError(
                f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}",
                path=path,
            )
        if tensor.dtype != weights[name].dtype and weights[name].dtype not in STORED:
            raise ModelError(
                f"{name} is stored as {weights[name].dtype}, expected {tensor.dtype}",
                path=path,
                remedy=f"store it as one of {', '.join(map(str, STORED))}",
            )


def save(directory: str | Path, model: nn.Module, config: ModelConfig, *, card: str) -> None:
    """Write a model directory whole or not at all; an existing one is replaced.

    Args:
        card: text of the model card.

    Raises:
        OutputError: the folder cannot be written (permission, full disk).
    """

    def write(fresh: Path) -> None:
        tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(tensors, fresh / WEIGHTS, metadata={"format": "pt"})

    save_files(directory, write, config, card=card, replaces=CONFIG)


def save_files(
    directory: str | Path,
    write: Callable[[Path], None],
    config: ModelConfig,
    *,
    card: str,
    replaces: str,
) -> None:
    """Write a model directory whole or not at all, its weights by `write` into a fresh folder.

    Args:
        card: text of the model card.
        replaces: a folder that is there is replaced if it is empty or has a file of this name.

    Raises:
        OutputError: the folder cannot be written (permission, full disk) or holds something else.
    """
    directory = Path(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(directory)
        fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            write(fresh)
            (fresh / CONFIG).write_text(config_text(config), encoding="utf-8")
            (fresh / CARD).write_text(card, encoding="utf-8")
            fresh.chmod(0o755)  # made private by mkdtemp; a model is not a secret
            for file in fresh.iterdir():
                file.chmod(0o644)
            require_replaceable(directory, replaces)
            replace_folder(fresh, directory)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"the model could not be written: {error}", path=directory) from error


def config_text(config: ModelConfig) -> str:
    """Return the content of `config.json`."""
    return json.dumps(configs.to_dict(config), indent=2, ensure_ascii=False) + "\n"


def require_replaceable(directory: Path, file: str) -> None:
    """Refuse to write over what is not an empty folder or one with a file of this name.

    Raises:
        OutputError: it is something else.
    """
    if not directory.exists() or (directory / file).is_file():
        return
    if not directory.is_dir() or any(directory.iterdir()):
        raise OutputError(
            f"exists and is not a model directory with {file}, so it is not replaced",
            path=directory,
        )


def _remove_leftovers(directory: Path) -> None:
    """Remove what earlier saves left when they were killed; recent ones may still be at work."""
    recover_folder(directory)
    for path in directory.parent.glob(f".{directory.name}-????????"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > SAVE_SECONDS:
                shutil.rmtree(path)


def fingerprint(directory: str | Path) -> str:
    """Return the sha256 of a model directory's weights and configuration, in hex."""
    try:
        return sha256(Path(directory) / CONFIG, weights_file(Path(directory)))
    except OSError as error:
        raise ModelError(
            f"cannot be read: {error.strerror}", path=error.filename or directory
        ) from error
