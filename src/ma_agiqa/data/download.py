"""Data sets from the Hugging Face Hub, where they are published there.

What is fetched is what the data set's entry names, through the hub library: interrupted
downloads go on where they stopped, and `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` work
as everywhere. What this file does not do: fetch from other places (those want a click on a
licence or an account), or unpack archives.
"""

from __future__ import annotations

from pathlib import Path

from ma_agiqa.data.spec import DatasetSpec
from ma_agiqa.errors import DataError, UsageError


def download(spec: DatasetSpec, root: str | Path, *, revision: str | None = None) -> str:
    """Fetch a data set into `root`, which is made if need be; return the commit it has.

    Args:
        revision: branch, tag or commit of the Hub repository.

    Raises:
        UsageError: the data set is not on the Hub; the message says where it is instead.
        DataError: the Hub cannot be reached, or does not have the repository.
    """
    if spec.hub is None:
        raise UsageError(
            f"{spec.title} is not to be had from the Hub; get it from {', '.join(spec.download)}",
            remedy=f"then put into {root}: {'; '.join(spec.unpack)}",
        )
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    # Its bases are those of the HTTP client that the installed hub library is built on, whose
    # own errors (no route, time out) come through as they are.
    failures: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError)
    try:
        # Asked first because `snapshot_download` takes a folder that is there for the whole
        # data set when it cannot reach the Hub.
        commit = HfApi().dataset_info(spec.hub.repository, revision=revision).sha
        snapshot_download(
            spec.hub.repository,
            repo_type="dataset",
            revision=commit,
            local_dir=root,
            allow_patterns=list(spec.hub.files),
        )
    except failures as error:
        raise DataError(
            f"{spec.hub.repository} could not be fetched from the Hub: "
            f"{(str(error) or type(error).__name__).splitlines()[0]}",
            path=root,
            remedy="check the network or HF_HUB_OFFLINE, and run the same command again: it goes "
            f"on where it stopped; or get it from {spec.download[0]}",
        ) from error
    return str(commit)
