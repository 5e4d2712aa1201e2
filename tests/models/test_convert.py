"""Official checkpoints: both layouts, every tensor accounted for, nothing hostile is run."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ma_agiqa.cli.models import convert as convert_command
from ma_agiqa.errors import ModelError, UsageError
from ma_agiqa.models import checkpoint
from ma_agiqa.models.paper.convert import (
    convert,
    convert_file,
    from_official,
    official_name,
    own_tables,
    read_checkpoint,
    why_dead,
)
from ma_agiqa.models.paper.model import MAAGIQA
from ma_agiqa.types import Scale
from support.official_network import TINY, tiny_inputs, tiny_model

pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")

DEAD = {"vit.blocks.11.mlp.fc1.bias": 4, "vit.head.bias": 3, "fc4096_784_a.weight": 2}


def official_layout(model: MAAGIQA) -> dict[str, Tensor]:
    """Return the tiny network as the official code would have saved it."""
    state = {official_name(own): value.clone() for own, value in model.state_dict().items()}
    for name in ("conv1.weight", "conv2.weight"):
        state[name] = state[name][:, :, None, None]
    dead = {name: torch.zeros(size) for name, size in DEAD.items()}
    return {**state, **own_tables(model), **dead}


@pytest.fixture
def official() -> dict[str, Tensor]:
    return official_layout(tiny_model())


def scores(model: MAAGIQA) -> Tensor:
    with torch.inference_mode():
        return model(*tiny_inputs()).score


def test_conversion_keeps_every_bit(official: dict[str, Tensor]) -> None:
    model = from_official(official, network=TINY)
    assert not model.training
    expected = tiny_model().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_report_accounts_for_every_tensor(official: dict[str, Tensor]) -> None:
    report = convert(official, network=TINY)[1]
    named = [*report.mapped.values(), *report.dropped, *report.checked]
    assert sorted(named) == sorted(official)
    assert set(report.dropped) == set(DEAD)
    assert all(report.dropped.values())
    assert report.layout == "separate"
    assert len(report.checked) == 8 + 4  # an index table per window block, a mask per odd one


def test_data_parallel_prefix_is_removed(official: dict[str, Tensor]) -> None:
    prefixed = {f"module.{name}": value for name, value in official.items()}
    assert torch.equal(scores(from_official(prefixed, network=TINY)), scores(tiny_model()))


def test_shared_layout_fills_both_transforms(official: dict[str, Tensor]) -> None:
    for part in ("weight", "bias"):
        official[f"fc4096_784.0.{part}"] = official.pop(f"fc4096_784_a2.0.{part}")
        del official[f"fc4096_784_b2.0.{part}"]
    model, report = convert(official, network=TINY)
    assert report.layout == "shared"
    meaning, coherence = model.semantic_projections
    for part in ("weight", "bias"):
        shared = official[f"fc4096_784.0.{part}"]
        assert torch.equal(getattr(meaning[0], part), shared)
        assert torch.equal(getattr(coherence[0], part), shared)
    assert meaning[0].weight is not coherence[0].weight


def test_half_precision_is_widened(official: dict[str, Tensor]) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in official.items()}
    model = from_official(half, network=TINY)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_tables_may_be_absent(official: dict[str, Tensor]) -> None:
    bare = {k: v for k, v in official.items() if "index" not in k and "mask" not in k}
    assert convert(bare, network=TINY)[1].checked == ()


def broken(official: dict[str, Tensor], name: str, value: Any) -> dict[str, Tensor]:
    changed = {**official, name: value}
    return {k: v for k, v in changed.items() if v is not None}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gating.bias", None, "unknown none, missing gating.bias"),
        ("backbone.conv.weight", torch.zeros(3), "unknown backbone.conv.weight"),
        ("fc4096_784_c2.0.bias", torch.zeros(3), "unknown fc4096_784_c2.0.bias"),
        ("gating.bias", torch.zeros(4), r"gating.bias has shape \(4,\), expected \(3,\)"),
        ("conv1.weight", torch.zeros(16, 32, 3, 3), r"conv1.weight has shape \(16, 32, 9\)"),
        ("gating.bias", torch.zeros(3).int(), "gating.bias is not a floating-point tensor"),
        ("gating.bias", torch.tensor([0.0, float("nan"), 0.0]), "gating.bias holds NaN"),
        (
            "swintransformer1.layers.0.blocks.1.attn_mask",
            torch.zeros(4, 16, 16),
            "attn_mask differs from the table",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    official: dict[str, Tensor], name: str, value: Any, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        from_official(broken(official, name, value), network=TINY)


def test_another_network_is_refused_with_a_short_list() -> None:
    other = {f"layer{i}.weight": torch.zeros(2) for i in range(50)}
    with pytest.raises(ModelError, match=r"not an official MA-AGIQA checkpoint.*and 45 more"):
        from_official(other, network=TINY)


def test_every_official_name_has_a_place(fixtures: Path) -> None:
    entries = json.loads((fixtures / "ma_agiqa_state_dict.json").read_text())["entries"]
    with torch.device("meta"):
        model = MAAGIQA()
    live = {official_name(own): value.shape for own, value in model.state_dict().items()}
    tables = own_tables(model)
    for entry in entries:
        name, shape = entry["name"], tuple(entry["shape"])
        if entry["kind"] == "buffer":
            assert tables.pop(name).shape == shape
        elif entry["live"]:
            assert why_dead(name) is None
            assert live.pop(name).numel() == torch.Size(shape).numel(), name
        else:
            assert why_dead(name), name
    assert not live
    assert not tables


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
def test_checkpoint_is_read_plain_or_wrapped(
    official: dict[str, Tensor], tmp_path: Path, wrap: Any
) -> None:
    torch.save(wrap(official), tmp_path / "official.pt")
    read = read_checkpoint(tmp_path / "official.pt")
    assert read.keys() == official.keys()
    assert all(torch.equal(read[name], official[name]) for name in read)


class Bomb:
    """A pickle that writes a file when it is trusted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o, protocol=2))]
)
def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path, save: Any) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "ran"
    save({"gating.bias": Bomb(trace)}, path)
    with pytest.raises(ModelError, match=r"evil.pt: .*would run code"):
        read_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_checkpoint_is_a_typed_error(
    official: dict[str, Tensor], tmp_path: Path, share: float
) -> None:
    path = tmp_path / "cut.pt"
    torch.save(official, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match=r"cut.pt: "):
        read_checkpoint(path)


def test_other_files_are_typed_errors(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a checkpoint\n" * 100)
    (tmp_path / "noise.pt").write_bytes(bytes(range(256)) * 64)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("data.txt", "hello")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "number.pt")
    torch.save({}, tmp_path / "empty.pt")
    names = ["text.pt", "noise.pt", "other.zip", "list.pt", "number.pt", "empty.pt", "missing.pt"]
    for name in [*names, "."]:
        with pytest.raises(ModelError):
            read_checkpoint(tmp_path / name)


def test_model_directory_scores_like_the_checkpoint(
    official: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(official, tmp_path / "official.pt")
    scale = Scale(low=0, high=5)
    convert_file(
        tmp_path / "official.pt", tmp_path / "model", name="tiny", scale=scale, network=TINY
    )
    model, config = checkpoint.load(tmp_path / "model")
    assert torch.equal(scores(model), scores(tiny_model()))  # type: ignore[arg-type]
    assert config.preprocess.kind == "paper"
    assert config.scale == scale
    card = (tmp_path / "model" / "README.md").read_text()
    assert "ViT norm and classifier" in card


def test_error_of_a_conversion_names_the_file(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"other.pt: not an official MA-AGIQA checkpoint"):
        convert_file(
            tmp_path / "other.pt",
            tmp_path / "model",
            name="x",
            scale=Scale(low=0, high=5),
            network=TINY,
        )
    assert not (tmp_path / "model").exists()


def test_a_scale_that_does_not_rise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--low 5 --high 5"):
        convert_command(tmp_path / "official.pt", tmp_path / "model", low=5.0, high=5.0)


def test_names_that_are_no_text_are_a_typed_error(tmp_path: Path) -> None:
    torch.save({0: torch.zeros(2)}, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match="expected a state dict of tensors, 0 are not"):
        read_checkpoint(tmp_path / "odd.pt")
