"""A model is a directory or a repository of the Hub, asked for no more than is needed."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from ma_agiqa.errors import ModelError
from ma_agiqa.lmm.encoder import open_encoder
from support.owl_checkpoint import load


def test_the_hub_is_asked_for_one_format_of_the_weights(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot(
        name: str, *, revision: str | None, allow_patterns: list[str], **options: object
    ) -> str:
        asked.append((name, revision, allow_patterns))
        return str(published)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert load("owner/owl", revision="abc").width == 64
    assert asked == [
        ("owner/owl", "abc", ["*.json", "tokenizer.model"]),
        ("owner/owl", "abc", ["pytorch_model*.bin"]),
    ]


def test_an_unreachable_hub_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(
        ModelError, match=r"owner/owl: .*cannot be fetched from the Hub: no network"
    ):
        load("owner/owl")


@pytest.mark.parametrize("source", ["/no/such/folder", "./here", "one-word"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(source: str) -> None:
    with pytest.raises(ModelError, match="no such directory, and not the name of a Hub"):
        load(source)


def test_the_hub_is_asked_for_processor_files_and_safetensors(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []

    def snapshot(
        name: str, *, revision: str | None, allow_patterns: list[str], **options: object
    ) -> str:
        asked.append((name, revision, allow_patterns))
        return str(qwen)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    named = open_encoder("someone/qwen", device="cpu", revision="v1")
    assert named.identity == open_encoder(qwen, device="cpu").identity, (
        "content counts, not the name"
    )
    config, everything = asked
    assert config == ("someone/qwen", "v1", ["config.json"])
    assert everything[1] == "v1"
    assert set(everything[2]) == {"*.json", "*.jinja", "*.txt", "*.model", "model*.safetensors"}
    assert not any(pattern.endswith((".py", ".bin")) for pattern in everything[2])
