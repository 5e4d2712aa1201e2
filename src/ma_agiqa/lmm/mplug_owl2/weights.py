"""Tensors under the released names into a model, strictly.

A model is laid out on the meta device and takes over the given tensors, so nothing is
allocated twice. Tables that follow from the configuration (sin-cos positions, rotary
frequencies) are in some checkpoints and not in others: they are always computed here, and
compared when present.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ma_agiqa.errors import ModelError
from ma_agiqa.lmm.mplug_owl2.configuration import MPLUGOwl2Config, parse_config
from ma_agiqa.lmm.mplug_owl2.model import MPLUGOwl2

_NAMES_SHOWN = 8
_WRONG_MODEL = "these are not the weights that this config.json describes"


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
            f"{_listed('missing', missing)}; {_listed('unexpected', unexpected)}",
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


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return f"no {what} tensors"
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)} {what} tensors: {', '.join(names[:_NAMES_SHOWN])}{more}"
