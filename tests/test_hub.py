"""The paper's network goes to the Hub and comes back as a model directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ma_agiqa.config import ModelConfig, Preprocess
from ma_agiqa.errors import ModelError, UsageError
from ma_agiqa.models import checkpoint
from ma_agiqa.types import Scale

pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")

from ma_agiqa.models.paper.model import MAAGIQA
from support.official_network import TINY, tiny_inputs, tiny_model


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    config = ModelConfig(
        name="tiny",
        architecture="ma-agiqa",
        network=dict(TINY),
        preprocess=Preprocess(kind="paper"),
        scale=Scale(0.0, 5.0),
    )
    checkpoint.save(tmp_path / "tiny", tiny_model(), config, card="# A card\n")
    return tmp_path / "tiny"


def test_a_local_directory_loads_to_the_same_network(directory: Path) -> None:
    model = MAAGIQA.from_pretrained(directory)
    assert torch.equal(model(*tiny_inputs()).score, tiny_model()(*tiny_inputs()).score)
    assert not model.training
    assert model.description is not None
    assert model.description.name == "tiny"


def test_a_loaded_network_saves_its_configuration_and_card(directory: Path, tmp_path: Path) -> None:
    MAAGIQA.from_pretrained(directory).save_pretrained(tmp_path / "copy")
    for name in ("config.json", "README.md", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (directory / name).read_bytes(), name


def test_a_damaged_card_is_one_error(directory: Path) -> None:
    (directory / "README.md").write_bytes(b"# A card \xff\n")
    with pytest.raises(ModelError, match=r"README\.md: cannot be read"):
        MAAGIQA.from_pretrained(directory)


def test_pushing_uploads_the_model_directory(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.hub_mixin as mixin

    uploaded: dict[str, bytes] = {}

    class Api:
        def __init__(self, **options: Any) -> None: ...

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            return type("Repo", (), {"repo_id": repo_id})()

        def upload_folder(self, *, folder_path: str, **options: Any) -> str:
            uploaded.update({p.name: p.read_bytes() for p in Path(folder_path).iterdir()})
            return "done"

    monkeypatch.setattr(mixin, "HfApi", Api)
    MAAGIQA.from_pretrained(directory).push_to_hub("somebody/tiny")
    assert uploaded["README.md"] == b"# A card\n"
    assert json.loads(uploaded["config.json"])["architecture"] == "ma-agiqa"
    assert uploaded["model.safetensors"] == (directory / "model.safetensors").read_bytes()


def test_a_network_built_by_hand_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no configuration"):
        tiny_model().save_pretrained(tmp_path / "model")


def test_a_directory_of_another_network_is_refused(tmp_path: Path) -> None:
    network = {"width_factor": 0.25}
    config = ModelConfig(
        name="small",
        architecture="compact",
        network=network,
        preprocess=Preprocess(kind="native"),
        scale=Scale(0.0, 5.0),
    )
    checkpoint.save(tmp_path / "small", checkpoint.build(config), config, card="")
    with pytest.raises(ModelError, match="holds a CompactModel, expected MAAGIQA"):
        MAAGIQA.from_pretrained(tmp_path / "small")


def test_the_revision_reaches_the_hub_library(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    import huggingface_hub.hub_mixin as mixin

    asked: list[str | None] = []

    def snapshot(name: str, *, revision: str | None, **options: Any) -> str:
        asked.append(revision)
        return str(directory)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(mixin, "hf_hub_download", lambda **options: str(directory / "config.json"))
    MAAGIQA.from_pretrained("somebody/tiny", revision="abc123")
    assert asked == ["abc123"]
    with pytest.raises(UsageError, match="Hub"):
        MAAGIQA.from_pretrained(directory, revision="abc123")
