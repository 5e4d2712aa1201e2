"""LMMs of any family: options, checkpoints and inputs that cannot be are refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import run
from lmm_pictures import pictures
from ma_agiqa.errors import ImageError, MissingExtraError, ModelError, UsageError
from ma_agiqa.experts.questions import OFFICIAL, Question
from ma_agiqa.lmm.encoders import open_encoder
from ma_agiqa.types import RGB

transformers = pytest.importorskip("transformers", reason="needs the extra 'lmm'")


@pytest.fixture(scope="module")
def images() -> list[RGB]:
    return pictures()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"layer": 4}, "layer 4 is not there: this model has 0"),
        ({"layer": -5}, "layer -5 is not there"),
        ({"pool": "mean"}, "unknown pool 'mean': use one of all, image, text, last"),
        ({"dtype": "fp8"}, "unknown dtype 'fp8'"),
    ],
)
def test_an_option_the_model_does_not_have_is_refused(
    qwen: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        open_encoder(qwen, device="cpu", **options)


def test_without_transformers_the_error_names_the_extra(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"ma-agiqa\[lmm\]"):
        open_encoder(qwen, device="cpu")


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def damages() -> Iterator[tuple[str, Any, str]]:
    yield "no config", lambda d: (d / "config.json").unlink(), "config.json: not found; the folder"
    yield "half a config", lambda d: (d / "config.json").write_text("{"), "config.json: damaged"
    yield "no type", lambda d: change_config(d, model_type=None), "no model_type, only"
    yield "new type", lambda d: change_config(d, model_type="qwen9_vl"), "does not load this model"
    yield "a text model", lambda d: change_config(d, model_type="bert"), "of type 'bert'"
    yield "no processor", lambda d: (d / "processor_config.json").unlink(), "processor"
    yield "no template", lambda d: (d / "chat_template.jinja").unlink(), "has no chat template"
    yield "no weights", lambda d: (d / "model.safetensors").unlink(), "holds no weights"

    def pickled(d: Path) -> None:
        (d / "model.safetensors").unlink()
        torch.save({}, d / "pytorch_model.bin")

    yield "pickles", pickled, "pickled weights"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [pytest.param(damage, reason, id=name) for name, damage, reason in damages()],
)
def test_an_unusable_checkpoint_is_named_with_what_was_found(
    qwen_copy: Path, damage: Any, reason: str
) -> None:
    damage(qwen_copy)
    with pytest.raises(ModelError, match=reason) as caught:
        open_encoder(qwen_copy, device="cpu")
    assert str(qwen_copy) in str(caught.value)
    assert caught.value.remedy


def test_a_missing_tensor_is_an_error_and_no_random_start(
    qwen_copy: Path, images: list[RGB]
) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(qwen_copy / "model.safetensors")
    name = next(name for name in tensors if "q_proj.weight" in name)
    del tensors[name]
    save_file(tensors, qwen_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors are missing .*q_proj.weight"):
        open_encoder(qwen_copy, device="cpu").encode(images, OFFICIAL)


def test_a_damaged_weight_file_is_a_typed_error(qwen_copy: Path, images: list[RGB]) -> None:
    weights = qwen_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="weights cannot be loaded"):
        open_encoder(qwen_copy, device="cpu").encode(images, OFFICIAL)


def test_a_question_with_a_mark_of_the_model_is_refused(qwen: Path, images: list[RGB]) -> None:
    question = Question("q", "Is <|image_pad|> fine?")
    with pytest.raises(UsageError, match=r"contains <\|image_pad\|>, a mark of this model"):
        open_encoder(qwen, device="cpu").encode(images, [question])


def test_an_image_that_preprocessing_refuses_is_an_image_error(qwen: Path) -> None:
    stripe = np.zeros((2, 800, 3), np.uint8)
    with pytest.raises(ImageError, match="preprocessing refuses it"):
        open_encoder(qwen, device="cpu").encode([stripe], OFFICIAL)


def test_no_images_or_no_questions_give_no_vectors(qwen: Path, images: list[RGB]) -> None:
    encoder = open_encoder(qwen, device="cpu")
    width = encoder.encode(images[:1], OFFICIAL).shape[2]
    assert encoder.encode([], OFFICIAL).shape == (0, 2, width)
    assert encoder.encode(images, []).shape == (5, 0, width)


def test_wrong_use_of_the_command_is_one_line_and_status_2(qwen: Path, tmp_path: Path) -> None:
    done = run("extract", "a.png", "--lmm", qwen, "--layer", 9, "--store", tmp_path / "store")
    assert done.exit_code == 2
    assert "layer 9 is not there" in done.stderr
    assert not (tmp_path / "store").exists()


def test_the_hub_is_asked_for_processor_files_and_safetensors(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(qwen)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    named = open_encoder("someone/qwen", device="cpu", revision="v1")
    assert named.parts == open_encoder(qwen, device="cpu").parts, "content counts, not the name"
    config, everything = asked
    assert config == ("someone/qwen", "v1", ["config.json"])
    assert everything[1] == "v1"
    assert set(everything[2]) == {"*.json", "*.jinja", "*.txt", "*.model", "model*.safetensors"}
    assert not any(pattern.endswith((".py", ".bin")) for pattern in everything[2])
