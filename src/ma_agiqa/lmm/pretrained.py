"""A directory in transformers' layout -> configuration, processor and frozen model, strictly.

Never runs code of the checkpoint (`trust_remote_code` stays off), never reads pickles
(safetensors only), and never leaves a weight at its random start: a missing tensor is an error.
What this file does not do: find the directory (`published.py`).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ma_agiqa import devices
from ma_agiqa.errors import MissingExtraError, ModelError
from ma_agiqa.lmm import quantisation
from ma_agiqa.lmm.mplug_owl2.checkpoint import SAFETENSORS, Checkpoint, open_checkpoint

_NAMES_SHOWN = 5
_FOREIGN = (ValueError, KeyError, TypeError, OSError, AttributeError, RuntimeError)
"""What transformers raises for files it cannot use; it has no error class of its own."""


def require_transformers() -> None:
    """Raise MissingExtraError unless transformers is installed."""
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError("transformers", "lmm")


def read_config(directory: Path) -> Any:
    """Return transformers' configuration object.

    Raises:
        ModelError: transformers does not know the model, or it needs code of its own.
    """
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    except _FOREIGN as error:
        raise ModelError(
            f"transformers {transformers.__version__} does not load this model: {_line(error)}",
            path=directory,
            remedy="code inside a checkpoint is never run here; look for a version of it "
            "whose name ends in -hf, or upgrade transformers",
        ) from error


def require_kind(config: Any, directory: Path) -> None:
    """Raise ModelError unless the model takes an image and a text."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ModelError(
            f"is a model of type {config.model_type!r}, which cannot be asked about an image",
            path=directory,
            remedy="take an image-text-to-text model, CLIP or SigLIP",
        )


def read_processor(directory: Path) -> Any:
    """Return the model's processor: tokenizer, image preprocessing and template.

    Raises:
        ModelError: a file of it is missing or damaged.
        MissingExtraError: it needs a package that is not installed.
    """
    import transformers

    try:
        processor = transformers.AutoProcessor.from_pretrained(directory, local_files_only=True)
    except ImportError as error:
        raise MissingExtraError(_package(error), "lmm") from error
    except _FOREIGN as error:
        raise ModelError(
            f"its processor cannot be read: {_line(error)}",
            path=directory,
            remedy="the folder must hold the model's tokenizer and processor files too",
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelError(
            f"its processor is a {type(processor).__name__}, without image preprocessing or "
            "without a tokenizer",
            path=directory,
            remedy="the folder must hold the model's processor files too",
        )
    return processor


def open_weights(directory: Path) -> Checkpoint:
    """Return the weight files, all of them there; they are not read yet.

    Raises:
        ModelError: some are missing, or they are pickles.
    """
    checkpoint = open_checkpoint(directory)
    if pickles := [path.name for path in checkpoint.shards if path.suffix != ".safetensors"]:
        raise ModelError(
            f"holds pickled weights ({pickles[0]}), which are not read",
            path=directory,
            remedy=f"take a revision that has {SAFETENSORS}",
        )
    return checkpoint


def load_model(
    directory: Path,
    auto_class: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    load_in: int | None = None,
) -> nn.Module:
    """Return the model, frozen, in eval mode, on its device.

    Args:
        auto_class: name of the class of transformers that builds it.
        load_in: 8 or 4 for quantised weights.

    Raises:
        ModelError: damaged weights, or weights that are not this model's.
    """
    import transformers

    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    if load_in is not None:
        options["quantization_config"] = quantisation.settings(load_in, dtype=dtype)
    if device.type == "cuda":  # straight to the device, through accelerate
        options["device_map"] = {"": device}
    try:
        with _no_progress_bar():
            model, report = getattr(transformers, auto_class).from_pretrained(
                directory, output_loading_info=True, **options
            )
    except ImportError as error:
        raise MissingExtraError(_package(error), "lmm") from error
    except Exception as error:  # safetensors' and transformers' errors share no base class
        if devices.is_out_of_memory(error):
            raise
        raise ModelError(
            f"its weights cannot be loaded: {_line(error)}",
            path=directory,
            remedy="the download is incomplete or damaged; fetch it again",
        ) from error
    _require_complete(report, directory)
    model.requires_grad_(False)
    model.eval()
    return model if load_in is not None else model.to(device)


def _require_complete(report: Mapping[str, Any], directory: Path) -> None:
    """Raise ModelError if a tensor kept its random start."""
    names = sorted(map(str, report["missing_keys"]))
    names += sorted(str(entry) for entry in report["mismatched_keys"])
    if names:
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        raise ModelError(
            f"{len(names)} tensors are missing or have another shape: "
            f"{', '.join(names[:_NAMES_SHOWN])}{more}",
            path=directory,
            remedy="these are not the weights that its config.json describes",
        )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers' bar off stderr, where the command line shows its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _package(error: ImportError) -> str:
    """Return the package that transformers asks for; it quotes the name where it has none."""
    quoted = re.search(r"`([\w-]+)`", str(error))
    return error.name or (quoted[1] if quoted else _line(error))


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
