"""A model with semantics: trained from a store, scored from a store or an LMM, with one result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ma_agiqa.config import ModelConfig, Preprocess
from ma_agiqa.errors import FeatureError, ImageError, ModelError, OutputError, UsageError
from ma_agiqa.lmm.encoder import OFFICIAL, Question, open_encoder, to_record
from ma_agiqa.models import checkpoint
from ma_agiqa.scorer import Scorer, load
from ma_agiqa.types import Scale
from support import owl_checkpoint, tiny_paper
from support.command_line import run

pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")
pytest.importorskip("sentencepiece", reason="the LMM's tokenizer needs the extra `paper`")
pytest.importorskip("cv2", reason="the paper's resize needs the extra `paper`")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six pictures of several shapes."""
    folder, g = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = []
    for number, size in enumerate([(60, 80), (80, 60), (64, 64)] * 2):
        waves = np.sin(np.arange(size[0])[:, None, None] / (3 + number)) * 60
        pixels = (128 + waves + g.normal(0, 20, (*size, 3))).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def store(lmm: Path, photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "store"
    done = run("extract", *photos, "--lmm", lmm, "--store", folder)
    assert done.exit_code == 0, done.stderr
    return folder


def save_model(
    directory: Path, lmm: Path, questions: tuple[Question, ...] = OFFICIAL, dtype: str = "fp16"
) -> Path:
    config = ModelConfig(
        name="tiny-paper",
        architecture="ma-agiqa",
        network={
            "semantics": len(questions),
            "semantic_width": owl_checkpoint.WIDTH,
            "visual": tiny_paper.NETWORK,
        },
        preprocess=Preprocess("paper"),
        scale=Scale(0.0, 5.0),
        questions=to_record(questions),
        encoder=dict(open_encoder(lmm, device="cpu", dtype=dtype).identity),
    )
    torch.manual_seed(0)
    network = checkpoint.build(config)
    with torch.no_grad():  # fresh weights barely look at the semantics
        for parameter in network.semantic_projections.parameters():
            parameter.mul_(10)
    checkpoint.save(directory, network, config, card="for a test")
    return directory


def forgetful(model: Path) -> Path:
    """Make a model directory forget which encoder it was trained with."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "encoder": {}}))
    return model


@pytest.fixture(scope="module")
def model(lmm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny", lmm)


def values(scorer: Scorer, sources: list[Path]) -> list[float]:
    return [float(score) for score in scorer.score(sources)]


def test_store_and_lmm_give_the_same_score(
    model: Path, lmm: Path, store: Path, photos: list[Path]
) -> None:
    stored = values(load(model, device="cpu", store=store), photos)
    computed = values(load(model, device="cpu", lmm=lmm), photos)
    # The vectors are rounded to float16 on both ways; the LMM itself runs in float16, whose
    # results differ in the last place between batches: 2^-11 of a vector's value.
    spread = float(np.std(stored))
    np.testing.assert_allclose(computed, stored, rtol=0, atol=5e-3 * spread)
    assert spread > 0


def test_the_score_follows_the_semantic_vectors(
    model: Path, store: Path, photos: list[Path]
) -> None:
    scorer = load(model, device="cpu", store=store)
    before = values(scorer, photos)
    scorer.semantics.collect = lambda prepared: torch.zeros(  # type: ignore[union-attr]
        len(prepared), 2, owl_checkpoint.WIDTH
    )
    after = values(scorer, photos)
    # Else the parity above would show nothing.
    assert np.abs(np.subtract(after, before)).min() > 0.1 * np.std(before)


@pytest.mark.parametrize("way", ["store", "lmm"])
def test_the_score_does_not_depend_on_batch_or_order(
    model: Path, lmm: Path, store: Path, photos: list[Path], way: str
) -> None:
    source = {"store": store} if way == "store" else {"lmm": lmm}
    alone = values(load(model, device="cpu", batch_size=1, **source), photos)
    together = values(load(model, device="cpu", batch_size=4, **source), photos[::-1])[::-1]
    # Float32 sums in another order; from the LMM also float16 results of another batch.
    tolerance = 1e-5 if way == "store" else 5e-3 * float(np.std(alone))
    np.testing.assert_allclose(together, alone, rtol=0, atol=tolerance)


def test_an_image_given_as_data_needs_the_lmm(
    model: Path, lmm: Path, store: Path, photos: list[Path]
) -> None:
    pixels = np.asarray(Image.open(photos[0]))
    stored = load(model, device="cpu", store=store)
    with pytest.raises(ImageError, match="stored features belong to files"):
        stored(pixels)
    from_bytes = stored(photos[0].read_bytes())
    assert float(from_bytes) == float(stored(photos[0])), "the file's bytes are its content"
    computed = load(model, device="cpu", lmm=lmm)
    assert float(computed(pixels)) == pytest.approx(float(computed(photos[0])), abs=1e-6)


def test_an_image_without_features_is_a_row_that_says_so(
    model: Path, store: Path, photos: list[Path], tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.png"
    Image.new("RGB", (50, 50)).save(stranger)
    done = run("score", photos[0], stranger, "--model", model, "--store", store)
    assert done.exit_code == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[0]["score"] is not None
    assert rows[1]["score"] is None
    assert "no semantic features of this image" in rows[1]["error"]
    assert "ma-agiqa extract" in rows[1]["error"]


def test_an_image_the_lmm_refuses_spoils_no_other(
    model: Path, lmm: Path, photos: list[Path], tmp_path: Path
) -> None:
    endless = tmp_path / "endless.png"
    Image.new("RGB", (16_385, 2)).save(endless)
    scores = list(load(model, device="cpu", lmm=lmm).score([photos[0], endless, photos[1]]))
    assert scores[1].error is not None
    assert "16385 x 2 pixels exceed" in scores[1].error
    assert scores[0].error is None
    assert scores[2].error is None


def test_kept_rows_are_reused_for_the_same_encoder_only(
    lmm: Path, store: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = forgetful(save_model(tmp_path / "model", lmm))
    other = tmp_path / "other"
    assert run("extract", *photos, "--lmm", lmm, "--dtype", "fp32", "--store", other).exit_code == 0
    words = ("score", *photos[:2], "--model", model, "--output", tmp_path / "scores.jsonl")

    def full(*_: object) -> None:
        raise OutputError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("ma_agiqa.cli.results.write_table", full)
        assert "2 rows are kept" in run(*words, "--store", store).stderr
        assert "2 of them reused" not in run(*words, "--store", other).stderr
        assert "2 rows are kept" in run(*words, "--store", store).stderr
    assert "2 of them reused" in run(*words, "--lmm", lmm).stderr, "another way to the same vectors"


def test_a_store_or_lmm_of_another_encoder_is_refused(
    lmm: Path, store: Path, tmp_path: Path
) -> None:
    other = save_model(tmp_path / "model", lmm, dtype="bf16")
    with pytest.raises(FeatureError, match=r'dtype: "torch.float16", not "torch.bfloat16"'):
        load(other, device="cpu", store=store)
    with pytest.raises(FeatureError, match=r'dtype: "torch.float32", not "torch.bfloat16"'):
        load(other, device="cpu", lmm=lmm, dtype="fp32")
    assert load(other, device="cpu", lmm=lmm).semantics is not None, "takes the recorded dtype"
    stranger = owl_checkpoint.write(tmp_path / "stranger", seed=1)
    with pytest.raises(FeatureError, match="weights:"):
        load(other, device="cpu", lmm=stranger)


def test_changed_questions_are_refused(lmm: Path, store: Path, tmp_path: Path) -> None:
    changed = (Question("meaning", "Does it mean anything?"), OFFICIAL[1])
    model = save_model(tmp_path / "model", lmm, questions=changed)
    with pytest.raises(FeatureError, match="expected 'Does it mean anything"):
        load(model, device="cpu", store=store)
    assert load(model, device="cpu", lmm=lmm).semantics is not None, "the model knows its texts"
    config = json.loads((model / "config.json").read_text())
    config["questions"]["meaning"]["text"] = "Is it meaningful?"
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(FeatureError, match="text of question meaning was changed"):
        load(model, device="cpu", lmm=lmm)


def test_one_source_is_asked_for(model: Path, lmm: Path, store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"meaning, coherence.*given none.*--lmm"):
        load(model, device="cpu")
    with pytest.raises(UsageError, match="given --store and --lmm"):
        load(model, device="cpu", lmm=lmm, store=store)
    config = ModelConfig(
        "plain", "compact", {"width_factor": 0.25}, Preprocess("native"), Scale(0.0, 5.0)
    )
    checkpoint.save(tmp_path / "plain", checkpoint.build(config), config, card="for a test")
    with pytest.raises(UsageError, match="plain takes no semantic features: leave out --store"):
        load(tmp_path / "plain", device="cpu", store=store)


def test_a_model_that_knows_no_encoder_takes_any(lmm: Path, store: Path, tmp_path: Path) -> None:
    """As a converted official checkpoint, which does not say what it was trained on."""
    model = forgetful(save_model(tmp_path / "model", lmm, dtype="bf16"))
    assert load(model, device="cpu", store=store).semantics is not None


# --- training ------------------------------------------------------------------------------------


def test_an_unknown_lmm_is_an_error_before_the_model_is_read(model: Path) -> None:
    with pytest.raises(ModelError, match="no such directory"):
        load(model, device="cpu", lmm="nowhere")
