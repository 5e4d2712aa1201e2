"""What `--lmm` may name, and how a name becomes an encoder.

Known is mPLUG-Owl2, as a directory, a Hub id, or by its short name; and `handcrafted`, which
has no weights and answers no question.
"""

from __future__ import annotations

from pathlib import Path

from ma_agiqa import devices
from ma_agiqa.experts import handcrafted
from ma_agiqa.experts.questions import OFFICIAL, Question
from ma_agiqa.experts.semantic import DeferredEncoder, SemanticEncoder, fingerprint_of
from ma_agiqa.lmm.mplug_owl2.loading import DTYPES, RELEASED

LMMS: dict[str, str] = {"mplug-owl2": RELEASED}
"""Short name -> Hub id."""

OFFICIAL_DTYPE = "fp16"


def open_encoder(
    name: str | Path, *, device: str = "auto", dtype: str = OFFICIAL_DTYPE
) -> DeferredEncoder:
    """Return the encoder of a short name, a checkpoint directory or a Hub id.

    Its weights are read at the first image.

    Raises:
        ModelError: no such checkpoint, or a file of it is missing or damaged.
        UsageError: an unknown dtype or device.
    """
    if str(name) == handcrafted.NAME:
        return DeferredEncoder(
            parts=handcrafted.PARTS,
            width=handcrafted.WIDTH,
            load=handcrafted.HandcraftedEncoder,
        )
    from ma_agiqa.lmm.mplug_owl2.encoder import deferred

    source = LMMS.get(str(name), name)
    return deferred(source, device=devices.resolve(device), dtype=dtype)


def default_questions(encoder: SemanticEncoder) -> tuple[Question, ...]:
    """Return what an encoder is asked where the user names no questions."""
    plain = encoder.fingerprint == fingerprint_of(handcrafted.PARTS)
    return (handcrafted.QUESTION,) if plain else OFFICIAL


def dtype_name(recorded: object) -> str:
    """Return the `--dtype` that an encoder's parts record; the official one if they do not."""
    names = {str(dtype): name for name, dtype in DTYPES.items()}
    return names.get(str(recorded), OFFICIAL_DTYPE)
