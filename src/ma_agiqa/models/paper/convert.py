"""Official checkpoint -> `MAAGIQA`, tensor by tensor, nothing guessed.

Source: official models/MA_AGIQA.py (its names and shapes). Both published layouts are
accepted: one transform per semantic vector (`fc4096_784_a2`, `fc4096_784_b2`), and the one
shared by both vectors (`fc4096_784`, August and September 2024).
Every tensor of the checkpoint is mapped, checked against our own computation, or dropped with
a reason; every tensor of the model is filled. Anything else is an error.
What this file does not do: know which data a checkpoint was trained on; it does not say.
"""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ma_agiqa import provenance
from ma_agiqa.config import ModelConfig, Preprocess
from ma_agiqa.errors import ModelError, first_line
from ma_agiqa.files import sha256
from ma_agiqa.lmm.encoder import OFFICIAL, to_record
from ma_agiqa.models import checkpoint
from ma_agiqa.models.paper.model import MAAGIQA
from ma_agiqa.models.paper.swin import WindowAttention, WindowLayer
from ma_agiqa.text import join_some
from ma_agiqa.types import Scale

RENAMES: tuple[tuple[str, str], ...] = (
    (r"visual\.backbone\.vit\.", r"vit."),
    (r"visual\.stage(\d)\.attentions\.(\d)\.query\.", r"tablock\1.\2.c_q."),
    (r"visual\.stage(\d)\.attentions\.(\d)\.key\.", r"tablock\1.\2.c_k."),
    (r"visual\.stage(\d)\.attentions\.(\d)\.value\.", r"tablock\1.\2.c_v."),
    (r"visual\.stage(\d)\.reduce\.", r"conv\1."),
    (r"visual\.stage(\d)\.windows\.", r"swintransformer\1."),
    (r"(swintransformer.+)\.attention\.bias_table", r"\1.attn.relative_position_bias_table"),
    (r"(swintransformer.+)\.attention\.", r"\1.attn."),
    (r"(swintransformer.+)\.mlp\.0\.", r"\1.mlp.fc1."),
    (r"(swintransformer.+)\.mlp\.2\.", r"\1.mlp.fc2."),
    (r"visual\.quality\.", r"fc_score."),
    (r"visual\.weight\.", r"fc_weight."),
    (r"semantic_projections\.0\.", r"fc4096_784_a2."),
    (r"semantic_projections\.1\.", r"fc4096_784_b2."),
    (r"visual_projection\.", r"fc784_784."),
    (r"mixture\.gate\.", r"gating."),
    (r"mixture\.readout\.", r"output_fc."),
)
"""How our names begin -> how the official ones do; applied in order."""

DEAD: tuple[tuple[str, str], ...] = (
    (r"vit\.blocks\.1[01]\..+", "ViT block after the last one that is read"),
    (r"vit\.(norm|head)\..+", "ViT norm and classifier, whose output is not read"),
    (r"swintransformer\d\.downsample\..+", "never called"),
    (r"fc39_784\.\d\..+", "never called (abandoned logits features)"),
    (r"encoder_layer\..+", "never called (abandoned attention over the three vectors)"),
    (r"fc_output\.\d\..+", "never called"),
    (r"fc4096_784_[ab]\..+", "never called (replaced by fc4096_784_a2 and _b2)"),
    (r"(quality|fc784x3_1)\.\d\..+", "never called (abandoned regression)"),
    (r"fc4096_1024_[ab]\..+", "never called"),
)
"""Official names that no score depends on, and why."""

SHARED = "fc4096_784."

PAPER_NETWORK = {"semantics": 2, "semantic_width": 4096, "gate": "linear", "visual": {}}

CARD = """# {name}

MA-AGIQA (arXiv 2404.17762), converted from the official checkpoint `{file}`
(SHA-256 {sha256}). The terms of that checkpoint apply.

Input: an image stretched to 224 x 224 (OpenCV bicubic), and two mPLUG-Owl2 vectors of it
(meaning, coherence). Output: a score on the scale {low:g} to {high:g}, higher is better.

Conversion: {mapped} tensors filled ({layout} transforms of the two vectors), {checked} index
tables and masks recomputed and found equal. Dropped, as no score depends on them:

{dropped}

No figure of this copy has been measured; `ma-agiqa evaluate` measures it.
"""


@dataclass(frozen=True)
class Conversion:
    """What became of every tensor of a checkpoint.

    Attributes:
        mapped: our name -> official name.
        dropped: official name -> why no score depends on it.
        checked: official tables that we compute ourselves and found equal.
        layout: "separate" or "shared" transforms of the two semantic vectors.
    """

    mapped: dict[str, str]
    dropped: dict[str, str]
    checked: tuple[str, ...]
    layout: str


def from_official(
    state_dict: Mapping[str, Tensor], *, network: Mapping[str, Any] | None = None
) -> MAAGIQA:
    """Return the network of an official state dict, in eval mode, on the CPU, in float32.

    Args:
        network: arguments of `MAAGIQA` where they differ from the paper's.

    Raises:
        ModelError: an unknown, missing, misshapen or non-finite tensor.
    """
    return convert(state_dict, network=network)[0]


def convert(
    state_dict: Mapping[str, Tensor], *, network: Mapping[str, Any] | None = None
) -> tuple[MAAGIQA, Conversion]:
    """Like `from_official`, and also say what became of every tensor."""
    official = {name.removeprefix("module."): value for name, value in state_dict.items()}
    model = MAAGIQA(**(network or {}))
    shared = any(name.startswith(SHARED) for name in official)
    mapped = {own: official_name(own, shared=shared) for own in model.state_dict()}
    rest = sorted(official.keys() - set(mapped.values()))
    tables = own_tables(model)
    dropped = {name: reason for name in rest if (reason := why_dead(name)) is not None}
    unknown = [name for name in rest if name not in dropped and name not in tables]
    missing = sorted(set(mapped.values()) - official.keys())
    if unknown or missing:
        raise ModelError(
            f"not an official MA-AGIQA checkpoint: unknown {join_some(unknown)}, "
            f"missing {join_some(missing)}"
        )
    checked = tuple(name for name in rest if name in tables)
    for name in checked:
        if not torch.equal(official[name].to(tables[name].dtype), tables[name]):
            raise ModelError(f"{name} differs from the table its architecture implies")
    own = model.state_dict()
    model.load_state_dict(
        {name: fitted(official[mapped[name]], mapped[name], own[name]) for name in own}
    )
    return model.eval(), Conversion(mapped, dropped, checked, "shared" if shared else "separate")


def official_name(own: str, *, shared: bool = False) -> str:
    """Return what the official code calls our parameter `own`."""
    name = own
    for pattern, replacement in RENAMES:
        name = re.sub(f"^{pattern}", replacement, name)
    return re.sub(r"^fc4096_784_[ab]2\.", SHARED, name) if shared else name


def why_dead(name: str) -> str | None:
    """Return why an official tensor is dropped, or None if it is not known to be dead."""
    return next((why for pattern, why in DEAD if re.fullmatch(pattern, name)), None)


def own_tables(model: MAAGIQA) -> dict[str, Tensor]:
    """Return the index tables and masks of the windowed stages under their official names."""
    tables = {}
    for s, stage in enumerate((model.visual.stage1, model.visual.stage2), start=1):
        for name, module in stage.windows.named_modules():
            if isinstance(module, WindowAttention):
                place = name.removesuffix(".attention")
                tables[f"swintransformer{s}.{place}.attn.relative_position_index"] = (
                    module.bias_index
                )
            elif isinstance(module, WindowLayer):
                for block, masked in enumerate(module.masked):
                    if masked and module.mask is not None:
                        tables[f"swintransformer{s}.{name}.blocks.{block}.attn_mask"] = module.mask
    return tables


def fitted(tensor: Tensor, name: str, like: Tensor) -> Tensor:
    """Return an official tensor in the shape of ours; a 1x1 convolution becomes a matrix."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise ModelError(f"{name} is not a floating-point tensor")
    if re.fullmatch(r"conv\d\.weight", name) and tensor.ndim == 4:
        tensor = tensor.flatten(2).squeeze(2)
    if tensor.shape != like.shape:
        raise ModelError(
            f"{name} has shape {tuple(tensor.shape)}, expected {tuple(like.shape)}",
            remedy="the checkpoint belongs to another architecture",
        )
    if not bool(tensor.isfinite().all()):
        raise ModelError(f"{name} holds NaN or infinity")
    return tensor


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict in a file written by `torch.save`, alone or under "state_dict".

    Only tensors and plain containers are unpickled; a file that wants more is refused.

    Raises:
        ModelError: missing, truncated, not a checkpoint, or not safe to read.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError("no such file", path=path) from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            "not a checkpoint of tensors only: it is another kind of file, or unpickling it "
            f"would run code ({first_line(error)})",
            path=path,
            remedy="do not open it with anything that trusts pickles",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"cannot be read, truncated perhaps ({first_line(error)})", path=path
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"expected a state dict, found {type(content).__name__}", path=path)
    odd = [
        str(name)
        for name, value in content.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if odd:
        raise ModelError(f"expected a state dict of tensors, {join_some(odd)} are not", path=path)
    return dict(content)


def convert_file(
    official: str | Path,
    out: str | Path,
    *,
    name: str,
    scale: Scale,
    network: Mapping[str, Any] | None = None,
) -> Conversion:
    """Turn an official checkpoint file into a model directory.

    Args:
        name: what results call the model.
        scale: the rating scale it was trained on, raw; the file does not say.

    Raises:
        ModelError: see `read_checkpoint` and `convert`; the message names the file.
        OutputError: the directory cannot be written.
    """
    state = read_checkpoint(official)
    try:
        model, conversion = convert(state, network=network)
    except ModelError as error:
        raise ModelError(error.reason, path=official, remedy=error.remedy) from error
    config = ModelConfig(
        name=name,
        architecture="ma-agiqa",
        network={**PAPER_NETWORK, **(network or {})},
        preprocess=Preprocess(kind="paper"),
        scale=scale,
        questions=to_record(OFFICIAL),
        versions=provenance.versions(),
        commit=provenance.commit(),
    )
    card = card_text(Path(official), config, conversion)
    checkpoint.save(out, model, config, card=card)
    return conversion


def card_text(official: Path, config: ModelConfig, conversion: Conversion) -> str:
    """Return the model card of a converted checkpoint."""
    reasons = Counter(conversion.dropped.values())
    dropped = "\n".join(f"- {count} tensors: {why}" for why, count in sorted(reasons.items()))
    return CARD.format(
        name=config.name,
        file=official.name,
        sha256=sha256(official),
        low=config.scale.low,
        high=config.scale.high,
        mapped=len(conversion.mapped),
        layout=conversion.layout,
        checked=len(conversion.checked),
        dropped=dropped or "- none",
    )
