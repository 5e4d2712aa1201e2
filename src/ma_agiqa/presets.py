"""The models that have a name: a literal table, and how a name becomes a directory.

What this file does not do: read weights (`models/checkpoint.py`) or know what a name's network
looks like; that stands in the directory's own `config.json`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from ma_agiqa.errors import UsageError
from ma_agiqa.hub import fetch

ASSETS = Path(__file__).resolve().parent / "assets"


@dataclass(frozen=True)
class ModelPreset:
    """One named model.

    Attributes:
        summary: what it is, in one line.
        needs: what must be there before it runs.
        licence: terms of its weights.
        source: where its weights come from.
        directory: the model directory inside this package, or None if it does not ship.
    """

    summary: str
    needs: str
    licence: str
    source: str
    directory: Path | None = None


MODELS: dict[str, ModelPreset] = {
    "compact": ModelPreset(
        summary="MA-AGIQA in small: a distortion and a content expert on EfficientNet-Lite0, gated",
        needs="nothing: ships with the package",
        licence="Apache-2.0",
        source="trained by this project on AGIQA-3K (paper split, train) and LIVE In the Wild, "
        "from ImageNet weights of EfficientNet-Lite0 (Apache-2.0)",
        directory=ASSETS / "compact",
    ),
    "paper": ModelPreset(
        summary="MA-AGIQA as published: ViT-B/8 expert and two mPLUG-Owl2 vectors",
        needs="`ma-agiqa convert` on the official checkpoint, and the extra `paper`",
        licence="set by its authors: code Apache-2.0, for the weights ask them; the language "
        "model inside mPLUG-Owl2 is under the LLaMA 2 community licence",
        source="checkpoint (AGIQA-3K, 30 epochs): Google Drive 1YT9Fryok-ozYPIvT1V3gEnEF-Ij3UxPp; "
        "mPLUG-Owl2: Hub MAGAer13/mplug-owl2-llama2-7b",
    ),
}


def find(
    model: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Return the model directory that a preset name, a local folder or a Hub id stands for.

    A Hub id (`owner/name`) is fetched through `huggingface_hub`, which honours `HF_ENDPOINT`
    and `HF_HUB_OFFLINE` and keeps a cache.

    Args:
        revision: branch, tag or commit of a Hub id; refused for anything else.
        cache_dir, force_download, local_files_only, token: of the Hub library, for a Hub id.

    Raises:
        UsageError: no such name; close matches are listed.
        ModelError: the Hub id could not be fetched.
    """
    name = str(model)
    if name in MODELS or Path(model).is_dir():
        if revision is not None:
            raise UsageError(f"--revision applies to models from the Hub, not to {name!r}")
        directory = MODELS[name].directory if name in MODELS else Path(model)
        if directory is None:
            raise UsageError(f"{name!r} does not ship with the package: {MODELS[name].needs}")
        return directory
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return fetch(
            name,
            ("model.safetensors", "config.json", "README.md"),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
    close = difflib.get_close_matches(name, MODELS, n=3)
    raise UsageError(
        f"no model named {name!r}, and no such directory",
        remedy=f"close: {', '.join(close)}" if close else "`ma-agiqa models` lists them",
    )
