"""Download: what is asked of the Hub, and what a user reads when it cannot be had."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError

from command_line import run
from ma_agiqa.data.download import download
from ma_agiqa.data.registry import DATASETS
from ma_agiqa.errors import DataError, UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Stands in for the Hub: notes what it is asked for, and writes or fails as told."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.calls: list[dict[str, Any]] = []

    def dataset_info(self, repository: str, *, revision: str | None) -> SimpleNamespace:
        self.calls.append({"info": repository, "revision": revision})
        return SimpleNamespace(sha=COMMIT)

    def snapshot_download(self, repository: str, **arguments: Any) -> str:
        self.calls.append({"repository": repository, **arguments})
        if self.failure is not None:
            raise self.failure
        return str(arguments["local_dir"])


def stand_in(monkeypatch: pytest.MonkeyPatch, failure: Exception | None = None) -> Hub:
    hub = Hub(failure)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_only_the_files_of_the_data_set_are_fetched_at_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = stand_in(monkeypatch)
    assert download(DATASETS["agiqa-3k"], tmp_path, revision="main") == COMMIT
    assert hub.calls == [
        {"info": "strawhat/agiqa-3k", "revision": "main"},
        {
            "repository": "strawhat/agiqa-3k",
            "repo_type": "dataset",
            "revision": COMMIT,
            "local_dir": tmp_path,
            "allow_patterns": ["data.csv", "images/*"],
        },
    ]


def client_error() -> Exception:
    """Return an error of the HTTP client below the hub library, as a broken line gives."""
    base = next(base for base in HfHubHTTPError.__bases__ if base is not OSError)
    return base("the line broke\nand more")  # type: ignore[return-value]


@pytest.mark.parametrize("failure", [client_error(), OSError("disk full"), ValueError("bad id")])
def test_a_broken_download_says_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    stand_in(monkeypatch, failure)
    first = str(failure).splitlines()[0]
    with pytest.raises(DataError, match=f"could not be fetched from the Hub: {first} .*goes on"):
        download(DATASETS["agiqa-3k"], tmp_path)


def test_offline_an_unfinished_folder_is_not_taken_for_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "data.csv").write_text("half of it")
    with pytest.raises(DataError, match=r"offline.*HF_HUB_OFFLINE"):
        download(DATASETS["agiqa-3k"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


@pytest.mark.parametrize("name", [name for name, spec in DATASETS.items() if spec.hub is None])
def test_what_is_not_on_the_hub_names_addresses_and_layout(tmp_path: Path, name: str) -> None:
    spec = DATASETS[name]
    with pytest.raises(UsageError) as caught:
        download(spec, tmp_path)
    assert all(text in str(caught.value) for text in (*spec.download, *spec.unpack))
    result = run("datasets", "download", name, "--root", tmp_path)
    assert result.exit_code == 2
    assert all(text in result.stdout for text in (*spec.download, *spec.unpack))


def test_the_command_says_which_commit_and_what_is_left_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    result = run("datasets", "download", "aigciqa2023", "--root", tmp_path)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"IntMeGroup/AIGCIQA2023 at commit {COMMIT} is in {tmp_path}"
    assert "unpack allimg.zip" in lines[1]
    assert lines[-1] == f"check it: ma-agiqa datasets verify aigciqa2023 --root {tmp_path}"
