"""Where a published model lies: a directory, or the Hub's local copy of a repository.

`HF_HUB_OFFLINE`, `HF_HOME`, `HF_ENDPOINT` and `HF_TOKEN` are the hub library's business and
work as everywhere. Code inside a repository is neither fetched nor run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ma_agiqa.errors import ModelError

CONFIG = "config.json"
SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
WEIGHTS = "model*.safetensors"
_AGAIN = "the download is incomplete or damaged; fetch the file again"
_IRRELEVANT = ("generation_config.json", "trainer_state.json", "README.txt", "LICENSE.txt")


def fetch(source: str, patterns: Sequence[str], *, revision: str | None = None) -> Path:
    """Return the local copy of a Hub repository with the files that match, fetched if need be.

    Raises:
        ModelError: not the name of a repository, or it cannot be fetched.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        raise ModelError("no such directory, and not the name of a Hub repository", path=source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"cannot be fetched from the Hub: {reason}",
            path=source,
            remedy="check the name and the network, or give a local directory",
        ) from error


def locate(source: str | Path, *, revision: str | None = None) -> Path:
    """Return the directory of a model, with processor files and safetensors weights.

    Raises:
        ModelError: not found.
    """
    if Path(source).is_dir():
        return Path(source)
    return fetch(str(source), [*SMALL_FILES, WEIGHTS], revision=revision)


def read_config(source: str | Path, *, revision: str | None = None) -> dict[str, Any]:
    """Return the model's `config.json`; of a Hub repository only this file is fetched.

    Raises:
        ModelError: not found or damaged.
    """
    directory = Path(source)
    if not directory.is_dir():
        directory = fetch(str(source), [CONFIG], revision=revision)
    path = directory / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        files = sorted(entry.name for entry in directory.iterdir())[:5]
        raise ModelError(
            f"not found; the folder holds {', '.join(files) or 'nothing'}",
            path=path,
            remedy="give the folder of a model: config.json, weights, tokenizer",
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"damaged: {error}", path=path, remedy=_AGAIN) from error
    if not isinstance(config, dict):
        raise ModelError(f"expected a mapping, found {type(config).__name__}", path=path)
    return config


def fingerprint_of_small_files(directory: Path) -> str:
    """Return 16 hexadecimal digits of tokenizer, processor and template files.

    Left out are weight indexes and files that only generation or training read.
    """
    digest = hashlib.sha256()
    for path in sorted({path for pattern in SMALL_FILES for path in directory.glob(pattern)}):
        if path.name in _IRRELEVANT or path.name.endswith(".index.json"):
            continue
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]
