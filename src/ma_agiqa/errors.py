"""The errors a user can meet: what happened, to which file, and what to do about it.

Everything this package raises on purpose derives from `MAAGIQAError`, so one `except`
clause separates bad input from a bug. The message names the file and the reason and
ends with the remedy when there is one. What this file does not do: decide whether an
error ends a run (the command line does) or becomes a row in the results (`Scorer.score`).
"""

from __future__ import annotations

from pathlib import Path


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
        cure = "" if remedy is None else f" ({remedy})"
        super().__init__(f"{where}{reason}{cure}")


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
            remedy=f"pip install 'ma-agiqa[{extra}]'",
        )


def first_line(error: BaseException) -> str:
    """Return the first line of a foreign error's message, or its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
