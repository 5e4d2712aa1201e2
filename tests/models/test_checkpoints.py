"""Model directories: whole, strict, and refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ma_agiqa.config import ModelConfig, Preprocess, ScoreInterval, TrainedOn
from ma_agiqa.errors import ModelError, OutputError, UsageError
from ma_agiqa.models import checkpoint
from ma_agiqa.models.registry import find_directory
from ma_agiqa.types import Scale

SMALL = {"width_factor": 0.25, "content_side": 64}


def small_config() -> ModelConfig:
    return ModelConfig(
        name="tiny",
        architecture="compact",
        network=dict(SMALL),
        preprocess=Preprocess(kind="native", min_side=32, max_pixels=65536),
        scale=Scale(0.0, 5.0),
        trained_on=TrainedOn("agiqa-3k", "quality", "paper", 3, (0.0, 2.5, 5.0)),
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    config = small_config()
    checkpoint.save(tmp_path / "tiny", checkpoint.build(config), config, card="# tiny\n")
    return tmp_path / "tiny"


def test_a_saved_model_comes_back_the_same(tmp_path: Path) -> None:
    config = small_config()
    model = checkpoint.build(config).eval()
    checkpoint.save(tmp_path / "tiny", model, config, card="# tiny\n")
    loaded, loaded_config = checkpoint.load(tmp_path / "tiny")
    images = torch.rand(1, 3, 64, 64)
    assert loaded_config == config
    assert torch.equal(loaded(images).score, model(images).score)
    assert not loaded.training
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny"], "temporary folders remain"


def test_saving_again_replaces_a_model_but_nothing_else(directory: Path) -> None:
    config = small_config()
    before = checkpoint.fingerprint(directory)
    checkpoint.save(directory, checkpoint.build(config), config, card="")
    assert checkpoint.fingerprint(directory) != before
    foreign = directory.parent / "photos"
    foreign.mkdir()
    (foreign / "holiday.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a model directory"):
        checkpoint.save(foreign, checkpoint.build(config), config, card="")
    assert (foreign / "holiday.txt").read_text() == "mine"


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a model directory"):
        checkpoint.load(tmp_path)
    with pytest.raises(ModelError, match="no such model directory"):
        checkpoint.load(tmp_path / "absent")


def test_damaged_weights_are_refused(directory: Path) -> None:
    path = directory / checkpoint.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged weights"):
        checkpoint.load(directory)
    path.unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        checkpoint.load(directory)


def change(directory: Path, **changes: object) -> None:
    path = directory / checkpoint.CONFIG
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format_version": 99}, "reads up to 1"),
        ({"colour": "blue"}, "unknown keys"),
        ({"architecture": "resnet"}, "unknown architecture 'resnet'"),
        ({"network": {"wdith": 1}}, "no argument .wdith.*did you mean width"),
        ({"network": {"width_factor": 0.5}}, "has shape"),
        ({"architecture": "ma-agiqa", "network": {}}, "missing"),
        ({"scale": {"low": "zero", "high": 5}}, "expected float"),
        ({"scale": {"low": 10, "high": 5}}, "scale from 10.0 to 5.0"),
        ({"scale": {"low": 0, "high": float("nan")}}, "NaN is no number"),
        ({"scale": {"low": 0, "high": 10**400}}, "scale|too large"),
        ({"preprocess": {"kind": "native", "max_pixels": -5}}, "max_pixels -5"),
        ({"preprocess": {"kind": "native", "min_side": 0}}, "min_side 0"),
        ({"network": SMALL | {"hidden": 10**9}}, "network.hidden 1000000000"),
        ({"network": SMALL | {"width": [1, 10**15]}}, "network.width 1000"),
        ({"network": SMALL | {"width": -1}}, "cannot be built"),
        ({"network": SMALL | {"drop": "x"}}, "cannot be built"),
        (
            {
                "trained_on": {
                    "dataset": "a",
                    "target": "b",
                    "split": "c",
                    "images": 1,
                    "score_quantiles": [2, 1],
                }
            },
            "score_quantiles",
        ),
        ({"interval": {"half_width": -1, "coverage": 0.8, "images": 9}}, "half_width -1"),
        ({"interval": {"half_width": 1, "coverage": 0.9, "images": 9}}, "0.9, where 0.8 is meant"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    directory: Path, changes: dict, reason: str
) -> None:
    change(directory, **changes)
    with pytest.raises(ModelError, match=reason) as caught:
        checkpoint.load(directory)
    assert str(directory) in str(caught.value)


def test_a_configuration_of_a_version_without_intervals_has_none(directory: Path) -> None:
    path = directory / checkpoint.CONFIG
    data = json.loads(path.read_text())
    del data["interval"]
    path.write_text(json.dumps(data))
    assert checkpoint.read_config(directory).interval is None
    change(directory, interval={"half_width": 0.5, "coverage": 0.8, "images": 9})
    assert checkpoint.read_config(directory).interval == ScoreInterval(0.5, 0.8, 9)


def test_a_configuration_that_is_not_json_is_refused(directory: Path) -> None:
    (directory / checkpoint.CONFIG).write_text("{not json")
    with pytest.raises(ModelError, match=r"config\.json"):
        checkpoint.load(directory)


def test_a_configuration_without_end_is_refused(directory: Path) -> None:
    (directory / checkpoint.CONFIG).write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"config\.json"):
        checkpoint.load(directory)


def test_weights_of_another_kind_are_refused(directory: Path) -> None:
    path = directory / checkpoint.WEIGHTS
    stored = load_file(path)
    save_file({k: v.to(torch.bfloat16) for k, v in stored.items()}, path)
    checkpoint.load(directory)
    save_file({k: v.to(torch.float8_e4m3fn) for k, v in stored.items()}, path)
    with pytest.raises(ModelError, match=r"stored as .*float8_e4m3fn"):
        checkpoint.load(directory)


def test_an_unwritable_place_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = small_config()
    with pytest.raises(OutputError):
        checkpoint.save(tmp_path / "file" / "model", checkpoint.build(config), config, card="")


def test_unknown_model_names_list_close_ones() -> None:
    with pytest.raises(UsageError, match="did you mean compact"):
        find_directory("compct")
    with pytest.raises(UsageError, match="applies to models from the Hub"):
        find_directory("compact", revision="main")


def test_a_hub_model_that_cannot_be_had_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*arguments: object, **options: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        find_directory("somebody/some-model")


def test_a_line_that_breaks_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    http_errors = huggingface_hub.errors.HfHubHTTPError.__bases__
    broken = next(base for base in http_errors if base is not OSError)

    def breaks(*arguments: object, **options: object) -> str:
        raise broken("the line broke\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", breaks)
    with pytest.raises(ModelError, match=r"fetched from the Hub: the line broke \("):
        find_directory("somebody/some-model")
