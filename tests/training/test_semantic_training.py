"""Training with semantics: what the model keeps of its vectors, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from ma_agiqa.features.store import FeatureStore
from ma_agiqa.lmm.encoder import OFFICIAL, to_record
from ma_agiqa.models import checkpoint
from ma_agiqa.scorer import load
from ma_agiqa.training.network import with_arguments
from support import owl_checkpoint, tiny_paper
from support.agiqa_part import copy_part
from support.command_line import run

pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")
pytest.importorskip("sentencepiece", reason="the LMM's tokenizer needs the extra `paper`")
pytest.importorskip("cv2", reason="the paper's resize needs the extra `paper`")


@pytest.fixture(scope="module")
def desk(agiqa_3k: Path, lmm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images of AGIQA-3K and a store of their vectors."""
    folder = tmp_path_factory.mktemp("desk")
    copy_part(agiqa_3k, folder / "AGIQA-3K", every=50)
    done = run("extract", "--data", "agiqa-3k", "--root", folder / "AGIQA-3K", "--lmm", lmm,
               "--store", folder / "store")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return folder


def train(desk: Path, out: Path, *words: object, store: Path | None = None) -> Result:
    short = ("--backbone", "random", "--set", "epochs=1", "--set", "batch_size=8")
    data = ("--data", "agiqa-3k", "--root", desk / "AGIQA-3K", "--out", out, "--device", "cpu")
    given = ("--store", store or desk / "store")
    return run("train", "--model", "paper", *data, *given, *short, *tiny_paper.OPTIONS, *words)


def test_a_trained_model_knows_its_questions_and_its_encoder(desk: Path, tmp_path: Path) -> None:
    done = train(desk, tmp_path / "run", "--network", "gate=softmax")
    assert done.exit_code == 0, done.stderr
    config = checkpoint.read_config(tmp_path / "run/model")
    header = FeatureStore.open(desk / "store").header
    assert config.questions == to_record(OFFICIAL)
    assert config.encoder == header.encoder
    assert config.network["gate"] == "softmax"
    assert config.network["semantic_width"] == owl_checkpoint.WIDTH
    assert config.network["visual"]["taps"] == [0, 1]
    card = (tmp_path / "run/model/README.md").read_text()
    assert header.fingerprint in card
    own = load(tmp_path / "run/model", device="cpu", store=desk / "store")
    path = next((desk / "AGIQA-3K/images").iterdir())
    assert np.isfinite(float(own(path)))


def test_a_run_is_not_resumed_with_vectors_of_another_encoder(
    desk: Path, lmm: Path, tmp_path: Path
) -> None:
    assert train(desk, tmp_path / "run").exit_code == 0
    other = tmp_path / "other"
    assert run("extract", "--data", "agiqa-3k", "--root", desk / "AGIQA-3K", "--lmm", lmm,
               "--dtype", "fp32", "--store", other).exit_code == 0  # fmt: skip
    done = train(desk, tmp_path / "run", "--resume", store=other)
    assert done.exit_code == 2
    assert "the run was started with encoder" in done.stderr


def test_training_names_the_images_without_vectors(desk: Path, lmm: Path, tmp_path: Path) -> None:
    some = sorted((desk / "AGIQA-3K/images").iterdir())[:10]
    assert run("extract", *some, "--lmm", lmm, "--store", tmp_path / "few").exit_code == 0
    done = train(desk, tmp_path / "run", store=tmp_path / "few")
    assert done.exit_code == 2
    assert "has no vectors of" in done.stderr
    assert ".jpg" in done.stderr
    assert "run `ma-agiqa extract` again" in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--network", "gats=softmax"), "no argument 'gats'"),
        (("--network", "gate"), "expected key=value"),
        (("--network", "gate.a=1", "--network", "gate.a.b=1"), "has no arguments of its own"),
    ],
)
def test_what_cannot_train_with_semantics_says_why(
    desk: Path, tmp_path: Path, words: tuple[str, ...], reason: str
) -> None:
    done = train(desk, tmp_path / "run", *words)
    assert done.exit_code == 2
    assert reason in done.stderr


def test_a_store_is_asked_for_where_it_is_needed_and_refused_where_not(
    desk: Path, tmp_path: Path
) -> None:
    data = ("--data", "agiqa-3k", "--root", desk / "AGIQA-3K", "--out", tmp_path / "run")
    missing = run("train", "--model", "paper", *data)
    assert missing.exit_code == 2
    assert "takes semantic features (`ma-agiqa extract` them" in missing.stderr
    idle = run("train", "--model", "compact", *data, "--store", desk / "store")
    assert idle.exit_code == 2
    assert "leave out --store" in idle.stderr


def test_network_arguments_are_changed_by_path() -> None:
    network = {"visual": {"dropout": 0.1}, "dropout": 0.1}
    changed = with_arguments(network, ["visual.taps=[5,8]", "gate=softmax", "dropout=0"])
    assert changed == {"visual": {"dropout": 0.1, "taps": [5, 8]}, "gate": "softmax", "dropout": 0}
    assert network == {"visual": {"dropout": 0.1}, "dropout": 0.1}, "the preset stays as it is"
