"""The only place that downloads models from the Hugging Face Hub.

`HF_HUB_OFFLINE`, `HF_ENDPOINT` and `HF_TOKEN` are the hub library's business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ma_agiqa.errors import ModelError, first_line


def failures() -> tuple[type[BaseException], ...]:
    """Return what the hub library raises when something cannot be had.

    The bases of its own error are those of the HTTP client that the installed version is built
    on, whose errors (no route, time out, a line that breaks) come through as they are.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, OSError, ValueError)


def fetch(
    repository: str,
    patterns: Sequence[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Return the local copy of a Hub repository; files that match are fetched if need be.

    Args:
        repository: `owner/name`.
        patterns: names of files, with wildcards.
        revision: branch, tag or commit.
        cache_dir, force_download, local_files_only, token: of the Hub library.

    Raises:
        ModelError: this is not the name of a repository, or it cannot be fetched.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", repository):
        raise ModelError("no such directory, and not the name of a Hub repository", path=repository)
    from huggingface_hub import snapshot_download

    try:
        directory = snapshot_download(
            repository,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            allow_patterns=list(patterns),
        )
    except failures() as error:
        why = "no such directory here, and cannot be fetched from the Hub"
        raise _refused(repository, why, error) from error
    return Path(directory)


def holds(
    repository: str,
    file: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
) -> bool:
    """Ask the Hub whether a repository has a file, without fetching it.

    Raises:
        ModelError: the Hub cannot be asked.
    """
    from huggingface_hub import HfApi

    try:
        return HfApi().file_exists(repository, file, revision=revision, token=token)
    except failures() as error:
        raise _refused(repository, f"the Hub cannot be asked for its {file}", error) from error


def _refused(repository: str, why: str, error: BaseException) -> ModelError:
    remedy = "check the name, the network, or HF_HUB_OFFLINE"
    return ModelError(f"{why}: {first_line(error)}", path=repository, remedy=remedy)
