"""8- and 4-bit weights through bitsandbytes, on a CUDA device.

8 bits is LLM.int8, 4 bits is NF4 with double quantisation; what is computed stays in the
dtype asked for. Vectors differ from those of full weights, so an encoder names it.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import nn

from ma_agiqa.errors import MissingExtraError, UsageError

BITS = (8, 4)


def check(bits: int | None, *, device: torch.device) -> None:
    """Refuse what cannot be done before any weight is read.

    Raises:
        UsageError: another number of bits, or no CUDA device.
        MissingExtraError: bitsandbytes is not installed.
    """
    if bits is None:
        return
    if bits not in BITS:
        raise UsageError(f"weights load in 8 or 4 bits, not in {bits}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "quant")
    if device.type != "cuda":
        raise UsageError(
            f"{bits}-bit weights need a CUDA device, this is {device.type}",
            remedy="leave out --load-in, or use a machine with an NVIDIA GPU",
        )


def settings(bits: int, *, dtype: torch.dtype) -> Any:
    """Return the configuration that transformers takes."""
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


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
