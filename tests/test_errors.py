"""An error says what to do in words that work here: the command fits the installation."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from ma_agiqa.errors import ImageError, MissingExtraError, first_line, install_command

CLONE = {"url": "file:///home/ann/ma-agiqa", "dir_info": {"editable": True}}
FOLDER = {"url": "file:///home/ann/ma-agiqa", "dir_info": {}}
GIT = {"url": "https://example.org/ma.git", "vcs_info": {"vcs": "git", "commit_id": "1a2b"}}


@pytest.mark.parametrize(
    ("origin", "extra", "command"),
    [
        (CLONE, "paper", "pip install -e '.[paper]' in /home/ann/ma-agiqa"),
        (CLONE, None, "git pull in /home/ann/ma-agiqa"),
        (FOLDER, "paper", "pip install 'ma-agiqa[paper] @ file:///home/ann/ma-agiqa'"),
        (GIT, "paper", "pip install 'ma-agiqa[paper] @ git+https://example.org/ma.git'"),
        (GIT, None, "pip install --upgrade 'ma-agiqa @ git+https://example.org/ma.git'"),
        (None, "paper", "pip install 'ma-agiqa[paper]'"),
        (None, None, "pip install --upgrade 'ma-agiqa'"),
    ],
)
def test_the_command_follows_how_the_package_was_installed(
    origin: dict | None, extra: str | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            return None if origin is None or name != "direct_url.json" else json.dumps(origin)

    monkeypatch.setattr(metadata, "distribution", lambda _: Installed())
    assert install_command(extra) == command


def test_a_clone_that_was_never_installed_is_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert "pip install -e '.[paper]' in the clone" in str(MissingExtraError("timm", "paper"))


def test_a_row_carries_the_message_without_the_path() -> None:
    error = ImageError("is empty", path="a.png", remedy="copy it again")
    assert str(error) == "a.png: is empty (copy it again)"
    assert error.without_path == "is empty (copy it again)"


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("a\nb"), "a"), (ValueError(), "ValueError"), (OSError(" \nc"), "c")],
)
def test_the_first_line_of_a_foreign_error(error: Exception, line: str) -> None:
    assert first_line(error) == line
