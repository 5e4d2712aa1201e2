"""What `--lmm` may name, and how a name becomes an encoder.

    model_type of config.json     encoder
    mplug_owl2                    `mplug_owl2/`, our own implementation
    clip, siglip, siglip2         `dual.py`, image and text towers
    any other                     `any_transformers.py`, what transformers loads

A name is a short name of `LMMS`, a directory or a Hub id; or `handcrafted`, which has no
weights and answers no question.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ma_agiqa import devices
from ma_agiqa.errors import ModelError, UsageError
from ma_agiqa.experts import handcrafted
from ma_agiqa.experts.questions import OFFICIAL, Question
from ma_agiqa.experts.semantic import DeferredEncoder, SemanticEncoder, fingerprint_of
from ma_agiqa.lmm import quantisation
from ma_agiqa.lmm.dtypes import DTYPES
from ma_agiqa.lmm.mplug_owl2.loading import RELEASED
from ma_agiqa.lmm.published import CONFIG, read_config

LMMS: dict[str, str] = {"mplug-owl2": RELEASED}
"""Short name -> Hub id."""

OURS = "mplug_owl2"
DUAL = ("clip", "siglip", "siglip2")
OFFICIAL_DTYPE = "fp16"
LAST, ALL = -1, "all"


def open_encoder(
    name: str | Path,
    *,
    device: str = "auto",
    dtype: str = OFFICIAL_DTYPE,
    layer: int = LAST,
    pool: str = ALL,
    load_in: int | None = None,
    revision: str | None = None,
) -> DeferredEncoder:
    """Return the encoder of a short name, a checkpoint directory or a Hub id.

    Its weights are read at the first image.

    Args:
        dtype: "fp16", "bf16" or "fp32".
        layer: of the language model; -1 is the last one after the final norm, 0 the embeddings.
        pool: which positions are averaged: "all", "image", "text" or "last".
        load_in: 8 or 4 for quantised weights on a CUDA device.
        revision: commit, tag or branch on the Hub.

    Raises:
        ModelError: no such checkpoint, a file of it is missing or damaged, or it is of a kind
            that cannot be asked about images.
        UsageError: an unknown dtype, device, layer or pool, or one that this model has not.
        MissingExtraError: a package that the model needs is not installed.
    """
    if str(name) == handcrafted.NAME:
        return DeferredEncoder(
            parts=handcrafted.PARTS,
            width=handcrafted.WIDTH,
            load=handcrafted.HandcraftedEncoder,
        )
    source = LMMS.get(str(name), name)
    placed = devices.resolve(device)
    config = read_config(source, revision=revision)
    kind = model_type(config, source=source)
    if kind not in (OURS, *DUAL):
        from ma_agiqa.lmm import any_transformers

        return any_transformers.deferred(
            source,
            device=placed,
            dtype=dtype,
            layer=layer,
            pool=pool,
            load_in=load_in,
            revision=revision,
        )
    if (layer, pool) != (LAST, ALL):
        raise UsageError(
            f"{kind} gives its last layer over all positions: leave out --layer and --pool"
        )
    if kind in DUAL:
        from ma_agiqa.lmm import dual

        if load_in is not None:
            raise UsageError(f"{kind} is small, and not loaded in {load_in} bits")
        return dual.deferred(source, device=placed, dtype=dtype, revision=revision)
    quantisation.check(load_in, device=placed)
    from ma_agiqa.lmm.mplug_owl2.encoder import deferred

    return deferred(source, device=placed, dtype=dtype, load_in=load_in, revision=revision)


def model_type(config: Mapping[str, Any], *, source: str | Path) -> str:
    """Return the family that a `config.json` names.

    Raises:
        ModelError: it names none.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind:
        return kind
    if "visual_config" in config:  # older copies of mPLUG-Owl2 do not say what they are
        return OURS
    raise ModelError(
        f"its {CONFIG} has no model_type, only {', '.join(sorted(config)[:5]) or 'nothing'}",
        path=source,
        remedy="give the folder of a model in the layout of transformers",
    )


def recorded_settings(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `open_encoder` that an encoder's parts record.

    With them the same encoder is opened again; what parts do not say is the official choice.
    """
    settings: dict[str, Any] = {"dtype": dtype_name(parts.get("dtype"))}
    return settings | {key: parts[key] for key in ("layer", "pool", "load_in") if key in parts}


def default_questions(encoder: SemanticEncoder) -> tuple[Question, ...]:
    """Return what an encoder is asked where the user names no questions."""
    plain = encoder.fingerprint == fingerprint_of(handcrafted.PARTS)
    return (handcrafted.QUESTION,) if plain else OFFICIAL


def dtype_name(recorded: object) -> str:
    """Return the `--dtype` that an encoder's parts record; the official one if they do not."""
    names = {str(dtype): name for name, dtype in DTYPES.items()}
    return names.get(str(recorded), OFFICIAL_DTYPE)
