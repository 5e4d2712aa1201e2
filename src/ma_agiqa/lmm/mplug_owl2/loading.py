"""A published checkpoint into a model, or into safetensors, one shard at a time.

The peak memory is the model plus one shard. With 8- or 4-bit weights the model is put
together in main memory and goes to the device layer by layer.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from ma_agiqa.errors import OutputError
from ma_agiqa.lmm import quantisation
from ma_agiqa.lmm.dtypes import DTYPES, check_dtype
from ma_agiqa.lmm.mplug_owl2.checkpoint import (
    CONFIG,
    COPY,
    SAFETENSORS_INDEX,
    SOURCE,
    TOKENIZER,
    Checkpoint,
    fingerprint,
    open_checkpoint,
    read_shard,
)
from ma_agiqa.lmm.mplug_owl2.configuration import parse_config
from ma_agiqa.lmm.mplug_owl2.model import MPLUGOwl2
from ma_agiqa.lmm.mplug_owl2.weights import check_names, empty_model, take_over

RELEASED = "MAGAer13/mplug-owl2-llama2-7b"


def load(
    source: str | Path = RELEASED,
    *,
    device: str | torch.device = "cpu",
    dtype: str = "fp16",
    revision: str | None = None,
) -> MPLUGOwl2:
    """Load a checkpoint from a directory or the Hub.

    Args:
        dtype: "fp16" (the official one), "bf16" or "fp32".
        revision: commit, tag or branch on the Hub.

    Raises:
        ModelError: a file is missing, damaged or of another model.
        UsageError: an unknown dtype.
    """
    return load_checkpoint(open_checkpoint(source, revision=revision), device=device, dtype=dtype)


def load_checkpoint(
    checkpoint: Checkpoint, *, device: str | torch.device, dtype: str, load_in: int | None = None
) -> MPLUGOwl2:
    """Load an opened checkpoint; see `load`.

    Args:
        load_in: 8 or 4 for quantised weights in the language model's layers.
    """
    check_dtype(dtype)
    model = _described(checkpoint)
    place = device if load_in is None else "cpu"
    for path in checkpoint.shards:
        _take_over_shard(checkpoint, path, model, device=place, dtype=DTYPES[dtype])
    if load_in is not None:
        model = model.to(dtype=DTYPES[dtype])  # quantised weights have a dtype of their own
        quantisation.replace_linears(model.model.layers, bits=load_in, dtype=DTYPES[dtype])
        return model.to(device=device)
    return model.to(device=device, dtype=DTYPES[dtype])


def convert_to_safetensors(source: str | Path, out: Path, *, revision: str | None = None) -> Path:
    """Write a safetensors copy of a checkpoint, same names, values and dtypes.

    The directory appears under its name only when it is complete.

    Raises:
        ModelError: the source is damaged or of another model.
        OutputError: `out` exists and is not empty, or cannot be written.
    """
    checkpoint = open_checkpoint(source, revision=revision)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError("already exists", path=out, remedy="give a new directory")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
            complete = Path(temporary) / "checkpoint"
            complete.mkdir()
            _write_copy(checkpoint, complete)
            if out.exists():
                out.rmdir()
            complete.rename(out)
    except OSError as error:
        raise OutputError(f"cannot be written: {error}", path=out) from error
    return out


def _described(checkpoint: Checkpoint) -> MPLUGOwl2:
    """Return the empty model of the configuration; the index must name its tensors."""
    config = parse_config(checkpoint.config, source=str(checkpoint.directory / CONFIG))
    model = empty_model(config)
    if checkpoint.names is not None:
        check_names(model, checkpoint.names, source=str(checkpoint.directory))
    return model


def _take_over_shard(
    checkpoint: Checkpoint,
    path: Path,
    model: MPLUGOwl2,
    *,
    device: str | torch.device,
    dtype: torch.dtype,
) -> None:
    """Read one shard into the model; on return its memory is free again."""
    names = checkpoint.shards[path]
    tensors = read_shard(path, names)
    if names is None:
        check_names(model, tensors, source=str(path))
    take_over(model, tensors, source=str(path), device=device, dtype=dtype)


def _write_copy(checkpoint: Checkpoint, directory: Path) -> None:
    """Write weights, index, configuration and tokenizer."""
    model = _described(checkpoint)
    places: dict[str, str] = {}
    size = 0
    for number, path in enumerate(checkpoint.shards, 1):
        file = f"model-{number:05d}-of-{len(checkpoint.shards):05d}.safetensors"
        sizes = _copy_shard(checkpoint, path, model, directory / file)
        places |= dict.fromkeys(sizes, file)
        size += sum(sizes.values())
    check_names(model, places, source=str(checkpoint.directory))
    for name in (CONFIG, TOKENIZER):
        if (checkpoint.directory / name).is_file():
            shutil.copyfile(checkpoint.directory / name, directory / name)
    metadata: dict[str, int | str] = {"total_size": size}
    index = {"metadata": metadata, "weight_map": places}
    (directory / SAFETENSORS_INDEX).write_text(json.dumps(index, indent=1) + "\n")
    # The index itself does not count for the fingerprint, so it can hold it.
    metadata |= {COPY: fingerprint(open_checkpoint(directory)), SOURCE: fingerprint(checkpoint)}
    (directory / SAFETENSORS_INDEX).write_text(json.dumps(index, indent=1) + "\n")


def _copy_shard(checkpoint: Checkpoint, path: Path, model: MPLUGOwl2, out: Path) -> dict[str, int]:
    """Write one shard as safetensors and return the bytes of each tensor."""
    tensors = read_shard(path, checkpoint.shards[path])
    if checkpoint.shards[path] is None:
        check_names(model, tensors, source=str(path))
    take_over(model, tensors, source=str(path), device="meta")  # checks, keeps nothing
    # Shards may hold views of one storage, which safetensors refuses.
    save_file(
        {name: tensor.clone().contiguous() for name, tensor in tensors.items()},
        out,
        metadata={"format": "pt"},
    )
    return {name: tensor.nbytes for name, tensor in tensors.items()}
