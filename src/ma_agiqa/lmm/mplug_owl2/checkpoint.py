"""A published mPLUG-Owl2 checkpoint: `config.json` and weights into a model, strictly.

The released `config.json` is reduced to what changes the computation (source:
mplug_owl2/model/configuration_mplug_owl2.py for defaults, the checkpoint for values). The file is
written by another library and full of its keys, so unknown keys are ignored. A size or epsilon
that is missing is an error, because a guess (`rms_norm_eps` is 1e-6 in the code and 1e-5 in
LLaMA-2) would change every vector silently. Settings that this implementation does not have are
refused by name.

A model is laid out on the meta device and takes over the given tensors, so nothing is allocated
twice; shards are read one at a time, so the peak memory is the model plus one shard. With 8- or
4-bit weights the model is put together in main memory and moves to the device layer by layer.
Tables that follow from the configuration (sin-cos positions, rotary frequencies) are in some
checkpoints and not in others: they are always computed here, and compared when present.
"""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ma_agiqa.errors import ModelError, OutputError
from ma_agiqa.lmm.encoder import DTYPES, check_dtype
from ma_agiqa.lmm.mplug_owl2.model import (
    AbstractorConfig,
    LanguageConfig,
    MPLUGOwl2,
    MPLUGOwl2Config,
    VisionConfig,
)
from ma_agiqa.lmm.weights import (
    CONFIG,
    COPY,
    SAFETENSORS_INDEX,
    SOURCE,
    TOKENIZER,
    Checkpoint,
    fingerprint_of_weights,
    open_checkpoint,
    read_shard,
)
from ma_agiqa.text import join_some

Sizes = TypeVar("Sizes", VisionConfig, AbstractorConfig, LanguageConfig)
VISION, ABSTRACTOR = "visual_config.visual_model", "visual_config.visual_abstractor"
_WRONG_MODEL = "these are not the weights that this config.json describes"


# --- configuration ---------------------------------------------------------------------------

_REQUIRED_SETTINGS: dict[str, dict[str, object]] = {
    "": {
        "hidden_act": "silu",
        "rope_scaling": None,
        "attention_bias": False,
        "tie_word_embeddings": False,
    },
    VISION: {
        "hidden_act": "quick_gelu",
        "num_channels": 3,
        "use_cls_token": True,
        "use_post_layernorm": True,
    },
    ABSTRACTOR: {"use_cls_token": True, "add_v2t_pos_emb": False},
}


_KEYS = {
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "key_value_heads": "num_key_value_heads",
    "queries": "num_learnable_queries",
    "max_positions": "max_position_embeddings",
}
"""Field of our configuration -> key of `config.json`, where the names differ."""


class _Section:
    """One mapping of the file, read key by key with errors that say where."""

    def __init__(self, data: object, where: str, source: str) -> None:
        self.where, self.source = where, source
        if not isinstance(data, Mapping):
            raise self.error(f"expected a mapping, found {type(data).__name__}")
        self.data: Mapping[str, Any] = data
        for key, supported in _REQUIRED_SETTINGS[where].items():
            if self.data.get(key, supported) != supported:
                raise self.error(f"{key} = {self.data[key]!r} is not supported, only {supported!r}")

    def error(self, reason: str) -> ModelError:
        place = f"{self.where}: " if self.where else ""
        return ModelError(
            place + reason,
            path=self.source,
            remedy="this is not the config.json of an mPLUG-Owl2 checkpoint",
        )

    def required(self, key: str) -> Any:
        if key not in self.data:
            raise self.error(f"lacks {key}")
        return self.data[key]

    def positive(self, key: str, kind: type = int, default: float | None = None) -> Any:
        value: Any = self.required(key) if default is None else self.data.get(key)
        if value is None:  # absent or `"num_key_value_heads": null`
            value = default
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or value <= 0 or (kind is int and not isinstance(value, int)):
            raise self.error(f"{key} must be a positive {kind.__name__}, found {value!r}")
        return kind(value)

    def sizes(self, kind: type[Sizes], **defaults: float) -> Sizes:
        """Read every field of a configuration; those with a default may be absent."""
        kinds = get_type_hints(kind)
        read = {
            name: self.positive(_KEYS.get(name, name), kinds[name], defaults.get(name))
            for name in kinds
        }
        return kind(**read)

    def require_divisible(self, what: str, whole: int, by: str, divisor: int) -> None:
        if whole % divisor:
            raise self.error(f"{what} = {whole} is not divisible by {by} = {divisor}")


def parse_config(config: Mapping[str, Any], *, source: str = "config.json") -> MPLUGOwl2Config:
    """Read the released `config.json` mapping.

    Args:
        source: where the mapping came from; stands in errors.

    Raises:
        ModelError: a key is missing or of the wrong kind, sizes do not fit together, or a
            setting is not supported.
    """
    top = _Section(config, "", source)
    visual = top.required("visual_config")
    if not isinstance(visual, Mapping):
        raise top.error(f"visual_config must be a mapping, found {visual!r}")
    vision = _vision(_Section(visual.get("visual_model"), VISION, source))
    abstractor = _abstractor(_Section(visual.get("visual_abstractor"), ABSTRACTOR, source), vision)
    return MPLUGOwl2Config(vision=vision, abstractor=abstractor, language=_language(top))


def _vision(section: _Section) -> VisionConfig:
    sizes = section.sizes(VisionConfig)
    section.require_divisible("hidden_size", sizes.hidden_size, "num_attention_heads", sizes.heads)
    section.require_divisible("image_size", sizes.image_size, "patch_size", sizes.patch_size)
    return sizes


def _abstractor(section: _Section, vision: VisionConfig) -> AbstractorConfig:
    sizes = section.sizes(AbstractorConfig)
    section.require_divisible("hidden_size", sizes.hidden_size, "num_attention_heads", sizes.heads)
    section.require_divisible("hidden_size", sizes.hidden_size, "4 (sin-cos tables)", 4)
    grid, width = section.positive("grid_size"), section.positive("encoder_hidden_size")
    if grid != vision.grid:
        raise section.error(f"grid_size = {grid}, but the vision model has {vision.grid} patches")
    if not width == vision.hidden_size == sizes.hidden_size:
        # The official code concatenates queries and vision tokens, so they share one width.
        raise section.error(
            f"encoder_hidden_size = {width} and hidden_size = {sizes.hidden_size} must "
            f"equal the vision model's {vision.hidden_size}"
        )
    return sizes


def _language(section: _Section) -> LanguageConfig:
    heads = section.positive("num_attention_heads")
    sizes = section.sizes(LanguageConfig, key_value_heads=heads, rope_theta=10000.0)
    section.require_divisible("hidden_size", sizes.hidden_size, "twice the heads", 2 * heads)
    section.require_divisible(
        "num_attention_heads", heads, "key/value heads", sizes.key_value_heads
    )
    return sizes


# --- tensors into a model --------------------------------------------------------------------


def build(config: Mapping[str, Any], state_dict: Mapping[str, Tensor] | None = None) -> MPLUGOwl2:
    """Build the model of a released `config.json` mapping.

    Args:
        state_dict: tensors under the released names; the model shares their memory and
            takes device and dtype from the embeddings. None: random weights on the
            default device.

    Raises:
        ModelError: the configuration is wrong or does not fit the tensors.
    """
    parsed = parse_config(config)
    if state_dict is None:
        return MPLUGOwl2(config=parsed)
    model = empty_model(parsed)
    check_names(model, state_dict, source="state_dict")
    take_over(model, state_dict, source="state_dict")
    embeddings = state_dict["model.embed_tokens.weight"]
    return model.to(device=embeddings.device, dtype=embeddings.dtype)


def empty_model(config: MPLUGOwl2Config) -> MPLUGOwl2:
    """Return the model with its parameters on the meta device and its tables computed."""
    with torch.device("meta"):
        return MPLUGOwl2(config=config)


def check_names(model: MPLUGOwl2, names: Iterable[str], *, source: str) -> None:
    """Compare names with the model's; computed tables may be absent.

    Raises:
        ModelError: listing the missing and the unexpected names.
    """
    given = set(names)
    missing = sorted({name for name, _ in model.named_parameters()} - given)
    unexpected = sorted(given - set(model.state_dict()))
    if missing or unexpected:
        raise ModelError(
            f"{_counted('missing', missing)}; {_counted('unexpected', unexpected)}",
            path=source,
            remedy=_WRONG_MODEL,
        )


def take_over(
    model: MPLUGOwl2,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Make the tensors the model's parameters; check the tables among them.

    Args:
        device, dtype: what to convert to; a tensor that is there already is not copied.

    Raises:
        ModelError: a shape or a table differs.
    """
    expected = model.state_dict()
    tables = dict(model.named_buffers())
    parameters = {}
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}",
                path=source,
                remedy=_WRONG_MODEL,
            )
        if name in tables:
            _check_table(name, tensor, tables[name], source)
        else:
            parameters[name] = tensor.to(device=device, dtype=dtype)
    model.load_state_dict(parameters, strict=False, assign=True)


def _counted(what: str, names: list[str]) -> str:
    return f"{len(names)} {what} tensors: {join_some(names)}" if names else f"no {what} tensors"


def _check_table(name: str, stored: Tensor, computed: Tensor, source: str) -> None:
    """Compare a stored table with ours; it may have been rounded to half precision."""
    if stored.is_meta:
        return
    # Tables are at most 1 in size, so one rounding step of their dtype bounds the error.
    step = max(torch.finfo(stored.dtype).eps, 1e-5) if stored.is_floating_point() else 0.0
    error = (stored.double().cpu() - computed.double().cpu()).abs().max().item()
    if not error <= step:
        raise ModelError(
            f"{name} differs from its formula by {error:.2g}", path=source, remedy=_WRONG_MODEL
        )


# --- loading and converting ------------------------------------------------------------------


def load_checkpoint(
    checkpoint: Checkpoint, *, device: str | torch.device, dtype: str, load_in: int | None = None
) -> MPLUGOwl2:
    """Load an opened checkpoint.

    Args:
        dtype: "fp16" (the official one), "bf16" or "fp32".
        load_in: 8 or 4 for quantised weights in the language model's layers.

    Raises:
        ModelError: a file is missing, damaged or of another model.
        UsageError: an unknown dtype.
    """
    check_dtype(dtype)
    model = _described(checkpoint)
    place = device if load_in is None else "cpu"
    for path in checkpoint.shards:
        _take_over_shard(checkpoint, path, model, device=place, dtype=DTYPES[dtype])
    if load_in is not None:
        model = model.to(dtype=DTYPES[dtype])  # quantised weights have a dtype of their own
        replace_linears(model.model.layers, bits=load_in, dtype=DTYPES[dtype])
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
    metadata |= {
        COPY: fingerprint_of_weights(open_checkpoint(directory)),
        SOURCE: fingerprint_of_weights(checkpoint),
    }
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


# --- quantised weights -----------------------------------------------------------------------


def replace_linears(module: nn.Module, *, bits: int, dtype: torch.dtype) -> None:
    """Put bitsandbytes' layers in place of every linear layer below a module of ours.

    The weights are quantised when the module is moved to its device.
    """
    for child in list(module.modules()):
        for name, layer in list(child.named_children()):
            if type(layer) is nn.Linear:
                setattr(child, name, _quantised(layer, bits=bits, dtype=dtype))


def _quantised(layer: nn.Linear, *, bits: int, dtype: torch.dtype) -> nn.Module:
    bnb: Any = importlib.import_module("bitsandbytes")
    weight, bias = layer.weight.detach(), layer.bias is not None
    if bits == 8:
        new: nn.Module = bnb.nn.Linear8bitLt(
            layer.in_features, layer.out_features, bias=bias, has_fp16_weights=False, device="meta"
        )
        new.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        new = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=bias,
            compute_dtype=dtype,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        new.weight = bnb.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
    new.bias = layer.bias
    return new.eval()
