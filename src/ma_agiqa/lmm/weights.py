"""The files of a published model: where they lie, what they hold, whether they are whole.

A model is a directory, or the Hub's local copy of a repository. Weights come in the layout of
transformers: safetensors shards with an index, one safetensors file, or pickles
(`pytorch_model*.bin`) in the same two forms. Pickles are read with `weights_only=True`. Code
inside a repository is neither fetched nor run.
`HF_HUB_OFFLINE`, `HF_HOME`, `HF_ENDPOINT` and `HF_TOKEN` are the hub library's business.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ma_agiqa.errors import ModelError, first_line
from ma_agiqa.hub import fetch

CONFIG, TOKENIZER = "config.json", "tokenizer.model"
SAFETENSORS_INDEX, SAFETENSORS = "model.safetensors.index.json", "model.safetensors"
PICKLE_INDEX, PICKLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
SAFETENSORS_FILES, PICKLE_FILES = "model*.safetensors", "pytorch_model*.bin"
SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
_IRRELEVANT = ("generation_config.json", "trainer_state.json", "README.txt", "LICENSE.txt")

COPY, SOURCE = "copy_fingerprint", "source_fingerprint"
"""In the index of a converted copy: fingerprint of its own files, and of those it came from."""
_SAMPLE_BYTES, _SAMPLES = 1 << 16, 64
_AGAIN = "the download is incomplete or damaged; fetch the file again"


# --- finding ---------------------------------------------------------------------------------


def locate(
    source: str | Path,
    *,
    revision: str | None = None,
    patterns: Sequence[str] = (*SMALL_FILES, SAFETENSORS_FILES),
) -> Path:
    """Return the directory of a model; of a Hub repository, the files that match are fetched.

    Raises:
        ModelError: not found.
    """
    directory = Path(source)
    return directory if directory.is_dir() else fetch(str(source), patterns, revision=revision)


def read_config(source: str | Path, *, revision: str | None = None) -> dict[str, Any]:
    """Return the model's `config.json`; of a Hub repository only this file is fetched.

    Raises:
        ModelError: not found or damaged.
    """
    return _read_json(locate(source, revision=revision, patterns=[CONFIG]) / CONFIG)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        files = sorted(entry.name for entry in path.parent.iterdir())[:5]
        raise ModelError(
            f"not found; the folder holds {', '.join(files) or 'nothing'}",
            path=path,
            remedy="give the folder of a model: config.json, weights, tokenizer",
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"damaged: {error}", path=path, remedy=_AGAIN) from error
    if not isinstance(data, dict):
        raise ModelError(f"expected a mapping, found {type(data).__name__}", path=path)
    return data


# --- weights ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory.

    Attributes:
        config: the parsed `config.json`.
        shards: weight files in order, each with the tensor names it must hold; None when no
            index says so (a single file).
    """

    directory: Path
    config: dict[str, Any]
    shards: dict[Path, frozenset[str] | None]

    @property
    def names(self) -> frozenset[str] | None:
        """All tensor names that the index lists, or None without an index."""
        listed = [names for names in self.shards.values() if names is not None]
        return frozenset().union(*listed) if listed else None

    @property
    def tokenizer(self) -> Path:
        """Path of its sentencepiece model."""
        return self.directory / TOKENIZER


def open_checkpoint(source: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Find a checkpoint in a directory or on the Hub; weights are not read yet.

    Raises:
        ModelError: not found, or a file of it is missing or damaged.
    """
    directory = Path(source)
    if not directory.is_dir():
        directory = fetch(str(source), ["*.json", TOKENIZER], revision=revision)
        pickled = (directory / PICKLE_INDEX).is_file()
        pickled = pickled and not (directory / SAFETENSORS_INDEX).is_file()
        weights = PICKLE_FILES if pickled else SAFETENSORS_FILES
        directory = fetch(str(source), [weights], revision=revision)
    config = _read_json(directory / CONFIG)
    shards = _shards(directory)
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        raise ModelError(
            f"{len(missing)} of {len(shards)} weight files are missing: {', '.join(missing[:5])}",
            path=directory,
            remedy=_AGAIN,
        )
    return Checkpoint(directory, config, shards)


def _shards(directory: Path) -> dict[Path, frozenset[str] | None]:
    """Prefer safetensors over pickles and an index over a single file."""
    for index, single in ((SAFETENSORS_INDEX, SAFETENSORS), (PICKLE_INDEX, PICKLE)):
        if (directory / index).is_file():
            return _indexed(directory / index)
        if (directory / single).is_file():
            return {directory / single: None}
    raise ModelError(
        "holds no weights", path=directory, remedy=f"expected {PICKLE_INDEX} or {SAFETENSORS}"
    )


def _indexed(index: Path) -> dict[Path, frozenset[str] | None]:
    places = _read_json(index).get("weight_map")
    if not isinstance(places, Mapping) or not places:
        raise ModelError("has no weight_map", path=index, remedy=_AGAIN)
    files: dict[str, set[str]] = defaultdict(set)
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ModelError(f"places {name} in {file!r}, not a file beside it", path=index)
        files[file].add(name)
    return {index.parent / file: frozenset(files[file]) for file in sorted(files)}


def read_shard(path: Path, names: frozenset[str] | None) -> dict[str, Tensor]:
    """Read one weight file onto the CPU and compare its tensor names with the index.

    Raises:
        ModelError: the file is damaged or lacks a tensor that the index promises.
    """
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(f"damaged: {first_line(error)}", path=path, remedy=_AGAIN) from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ModelError("holds something else than named tensors", path=path)
    if names is not None and set(tensors) != names:
        differing = sorted(names.symmetric_difference(tensors))
        raise ModelError(
            f"does not hold what the index says: {', '.join(differing[:5])}",
            path=path,
            remedy=_AGAIN,
        )
    return tensors


# --- fingerprints ----------------------------------------------------------------------------


def fingerprint_of_weights(checkpoint: Checkpoint) -> str:
    """Return 16 hexadecimal digits of the checkpoint's content, in seconds for 16 GB.

    Configuration and tokenizer count in full, each weight file by its size and 64 evenly
    spaced samples. A safetensors copy made by `convert-lmm` has the fingerprint of its source,
    as long as its files are those that were written then.
    """
    own = _fingerprint_of_files(checkpoint)
    index = checkpoint.directory / SAFETENSORS_INDEX
    metadata = _read_json(index).get("metadata") if index.is_file() else None
    if isinstance(metadata, Mapping) and metadata.get(COPY) == own:
        return str(metadata[SOURCE])
    return own


def _fingerprint_of_files(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for path in (checkpoint.directory / CONFIG, checkpoint.tokenizer):
        digest.update(path.read_bytes() if path.is_file() else b"")
    for path in checkpoint.shards:
        size = path.stat().st_size
        digest.update(str(size).encode())
        step = max(size // _SAMPLES, _SAMPLE_BYTES)
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def fingerprint_of_small_files(directory: Path) -> str:
    """Return 16 hexadecimal digits of tokenizer, processor and template files.

    Weight indexes, and files that only generation or training read, do not count.
    """
    digest = hashlib.sha256()
    for path in sorted({path for pattern in SMALL_FILES for path in directory.glob(pattern)}):
        if path.name in _IRRELEVANT or path.name.endswith(".index.json"):
            continue
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]
