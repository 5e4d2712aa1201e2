"""The errors a user can meet: what happened, to which file, and what to do about it.

Everything this package raises on purpose derives from `MAAGIQAError`, so one `except`
clause separates bad input from a bug. The message names the file and the reason and
ends with the remedy when there is one. What this file does not do: decide whether an
error ends a run (the command line does) or becomes a row in the results (`Scorer.score`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class MAAGIQAError(Exception):
    """Base of all deliberate errors.

    Args:
        reason: what is wrong, in one clause.
        path: the file or folder concerned, if any; stands first in the message.
        remedy: what the user can do, in one clause; stands last.
    """

    def __init__(
        self, reason: str, *, path: str | Path | None = None, remedy: str | None = None
    ) -> None:
        self.reason = reason
        self.path = None if path is None else str(path)
        self.remedy = remedy
        where = "" if path is None else f"{path}: "
        super().__init__(f"{where}{self.without_path}")

    @property
    def without_path(self) -> str:
        """The message without the path, for a row of results, which names it anyway."""
        return self.reason if self.remedy is None else f"{self.reason} ({self.remedy})"


class UsageError(MAAGIQAError):
    """The request itself is wrong: an unknown name, option or value."""


class ImageError(MAAGIQAError):
    """One image cannot be read or judged. Other images are not affected."""


class DataError(MAAGIQAError):
    """A data set, annotation table or split is missing, damaged or inconsistent."""


class ModelError(MAAGIQAError):
    """A model directory or checkpoint is missing, damaged or of another kind."""


class FeatureError(MAAGIQAError):
    """Stored semantic features are missing, damaged or made by another encoder."""


class OutputError(MAAGIQAError):
    """Results could not be written."""


class MissingExtraError(MAAGIQAError):
    """An optional dependency is not installed.

    Args:
        package: the distribution that could not be imported.
        extra: the extra of this package that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package '{package}', which is not installed",
            remedy=install_command(extra),
        )


def require(extra: str, *packages: str) -> None:
    """Raise MissingExtraError for the first of the packages that is not installed.

    None is imported.
    """
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, extra)


def first_line(error: BaseException) -> str:
    """Return the first line of a foreign error's message, or its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def install_command(extra: str | None = None) -> str:
    """Return the command that adds an extra, or without one brings a newer version.

    It follows how this package was installed: from a clone, an address, or an index.
    """
    import json
    from importlib import metadata
    from urllib.request import url2pathname

    name = "ma-agiqa" if extra is None else f"ma-agiqa[{extra}]"
    try:
        record = metadata.distribution("ma-agiqa").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        record = '{"dir_info": {"editable": true}}'  # run from a clone without being installed
    origin: dict[str, Any] = {} if record is None else json.loads(record)
    if origin.get("dir_info", {}).get("editable"):
        address: str = origin.get("url", "")
        folder = url2pathname(address.removeprefix("file://")) if address else "the clone"
        return ("git pull" if extra is None else f"pip install -e '.[{extra}]'") + f" in {folder}"
    if "url" in origin:
        scheme = f"{origin['vcs_info']['vcs']}+" if "vcs_info" in origin else ""
        name = f"{name} @ {scheme}{origin['url']}"
    return f"pip install {'--upgrade ' if extra is None else ''}'{name}'"
