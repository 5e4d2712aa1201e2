"""The files of a published checkpoint: where they are, what they hold, whether they are whole.

Understood are the published layout (pickle shards `pytorch_model-*.bin` with an index) and
its safetensors copies (shards with an index, or one file). Pickles are read with
`weights_only=True`. Remote code in a checkpoint is never touched.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ma_agiqa.errors import ModelError
from ma_agiqa.lmm.published import fetch

CONFIG, TOKENIZER = "config.json", "tokenizer.model"
SAFETENSORS_INDEX, SAFETENSORS = "model.safetensors.index.json", "model.safetensors"
PICKLE_INDEX, PICKLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
COPY, SOURCE = "copy_fingerprint", "source_fingerprint"
"""In a converted copy's index: fingerprint of its own files, and of those it came from."""
_AGAIN = "the download is incomplete or damaged; fetch the file again"
_SAMPLE_BYTES, _SAMPLES = 1 << 16, 64


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory.

    Attributes:
        config: the parsed `config.json`.
        shards: weight files in order, each with the names it must hold; None when no index
            says so (a single file).
    """

    directory: Path
    config: dict[str, Any]
    shards: dict[Path, frozenset[str] | None]

    @property
    def names(self) -> frozenset[str] | None:
        """All names the index lists, or None without an index."""
        parts = [names for names in self.shards.values() if names is not None]
        return frozenset().union(*parts) if parts else None

    @property
    def tokenizer(self) -> Path:
        return self.directory / TOKENIZER


def open_checkpoint(source: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Find a checkpoint in a directory or on the Hub; weights are not read yet.

    Raises:
        ModelError: not found, or a file of it is missing or damaged.
    """
    directory = Path(source)
    if not directory.is_dir():
        directory = _download(str(source), revision)
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


def read_shard(path: Path, names: frozenset[str] | None) -> dict[str, Tensor]:
    """Read one weight file onto the CPU and compare it with the index.

    Raises:
        ModelError: the file is damaged or lacks a tensor that the index promises.
    """
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"damaged: {reason}", path=path, remedy=_AGAIN) from error
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


def fingerprint(checkpoint: Checkpoint) -> str:
    """Return 16 hexadecimal digits of the checkpoint's content, in seconds for 16 GB.

    Configuration and tokenizer count in full, each weight file by its size and 64 evenly
    spaced samples. A safetensors copy made by `convert-lmm` gives what its source gave, as
    long as its own files are what was written then.
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError("not found", path=path, remedy=_AGAIN) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"damaged: {error}", path=path, remedy=_AGAIN) from error
    if not isinstance(data, dict):
        raise ModelError(f"expected a mapping, found {type(data).__name__}", path=path)
    return data


def _download(source: str, revision: str | None) -> Path:
    """Fetch a checkpoint from the Hub: small files first, then one format of the weights."""
    directory = fetch(source, ["*.json", TOKENIZER], revision=revision)
    pickles = (directory / PICKLE_INDEX).is_file()
    pickles = pickles and not (directory / SAFETENSORS_INDEX).is_file()
    weights = "pytorch_model*.bin" if pickles else "model*.safetensors"
    return fetch(source, [weights], revision=revision)
