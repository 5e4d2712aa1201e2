"""Questions that quote the words behind an image: their vectors belong to image and words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_semantic_scoring import save_model

from ma_agiqa.data.datasets import load
from ma_agiqa.data.samples import TableColumns
from ma_agiqa.errors import DataError, ImageError, UsageError
from ma_agiqa.features.extract import extract
from ma_agiqa.features.source import content_hash, hash_files, key_of, vectors_of
from ma_agiqa.features.store import FeatureStore, Header
from ma_agiqa.lmm.encoder import (
    Question,
    open_encoder,
)
from support import owl_checkpoint
from support.command_line import run

pytest.importorskip("sentencepiece", reason="the LMM's tokenizer needs the extra `paper`")

SHOWN = Question("shown", "Does it show {prompt}?")
PLAIN = Question("plain", "Is it a good picture?")
ASKED = (SHOWN, PLAIN)


@pytest.fixture(scope="module")
def desk(agiqa_3k: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of AGIQA-3K with a table of scores and prompts, two prompts in all."""
    folder = tmp_path_factory.mktemp("desk")
    paths = sorted((agiqa_3k / "images").iterdir())[::250]
    rows = ["image,score,words"]
    for number, path in enumerate(paths):
        Image.open(path).resize((64, 64)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{number},{'a fox in a hat' if number % 2 else 'six fingers'}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    (folder / "questions.toml").write_text(
        "".join(f'{question.name} = "{question.text}"\n' for question in ASKED)
    )
    return folder


def words_of(desk: Path) -> dict[Path, str]:
    samples = load(desk / "table.csv", desk, TableColumns(prompt="words"))
    return dict(zip(samples.path, samples.groups["prompt"], strict=True))


@pytest.fixture(scope="module")
def store(desk: Path, lmm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "store"
    done = run(
        "extract", "--data", desk / "table.csv", "--root", desk, "--prompt-column", "words",
        "--questions", desk / "questions.toml", "--lmm", lmm, "--dtype", "fp32", "--device", "cpu",
        "--store", folder,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "12 extracted" in done.stderr
    return folder


@pytest.fixture(scope="module")
def model(lmm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")
    pytest.importorskip("cv2", reason="the paper's resize needs the extra `paper`")
    return save_model(tmp_path_factory.mktemp("models") / "tiny", lmm, ASKED, dtype="fp32")


def test_keys_are_the_content_alone_unless_words_are_quoted() -> None:
    sha256 = content_hash(b"image")
    assert key_of(sha256, None) == sha256, "stores from before keep their keys"
    keys = {sha256, key_of(sha256, "a fox"), key_of(sha256, "a hat"), key_of(content_hash(b""), "")}
    assert len(keys) == 4
    # Literal, because stores carry it: a change orphans them.
    assert key_of("00", "a fox") == (
        "5306ff9b3153d155a322199ea862e6e0fbe5d361a2b74b1e3b353d5f669faf91"
    )


def test_vectors_are_those_of_the_question_with_the_words(
    desk: Path, store: Path, lmm: Path
) -> None:
    words = words_of(desk)
    encoder = open_encoder(lmm, device="cpu", dtype="fp32")
    keys = [key_of(sha, w) for sha, w in zip(hash_files(list(words)), words.values(), strict=True)]
    found = FeatureStore.open(store).get(keys).float()
    for (path, own), vectors in zip(words.items(), found, strict=True):
        image = np.asarray(Image.open(path))
        asked = [Question("shown", f"Does it show {own}?"), PLAIN]
        expected = encoder.encode([image], asked)[0]
        # Stored as float16, whose relative step is 1e-3.
        torch.testing.assert_close(vectors, expected, rtol=1e-3, atol=1e-3)
        other = encoder.encode([image], [Question("shown", "Does it show a chair?")])[0, 0]
        assert (other - expected[0]).abs().max() > 0.01, "other words, other vector"


def test_one_image_with_two_prompts_has_two_vectors(desk: Path, lmm: Path, tmp_path: Path) -> None:
    encoder = open_encoder(lmm, device="cpu", dtype="fp32")
    header = Header(encoder.identity, encoder.width, ASKED)
    store = FeatureStore.create(tmp_path / "store", header)
    image = desk / "0.png"
    prompts = ["a fox", "a hat", "a fox", " "]
    done = extract(encoder, [image] * 4, store, prompts=prompts)
    assert (done.extracted, done.present) == (2, 1)
    assert [failure.reason for failure in done.failures] == [
        "the words that generated it are not known, and a question quotes them"
    ]
    sha256 = hash_files([image])[0]
    fox, hat = store.get([key_of(sha256, "a fox"), key_of(sha256, "a hat")])
    assert not torch.equal(fox[0], hat[0])
    assert torch.equal(fox[1], hat[1]), "this question quotes nothing"


def test_words_that_cannot_be_asked_fail_their_image_only(
    desk: Path, lmm: Path, tmp_path: Path
) -> None:
    encoder = open_encoder(lmm, device="cpu", dtype="fp32")
    store = FeatureStore.create(tmp_path / "store", Header(encoder.identity, encoder.width, ASKED))
    images = [desk / f"{number}.png" for number in range(3)]
    prompts = ["a fox", "</s> a hat", "word " * 200]
    done = extract(encoder, images, store, prompts=prompts)
    assert done.extracted == 1
    reasons = {Path(failure.path).name: failure.reason for failure in done.failures}
    assert "contains </s>" in reasons["1.png"]
    assert "positions exceeds the model's" in reasons["2.png"]


def test_without_the_words_nothing_is_extracted(desk: Path, lmm: Path, tmp_path: Path) -> None:
    words = ("--questions", desk / "questions.toml", "--lmm", lmm, "--store", tmp_path / "store")
    for source in ((desk / "0.png",), ("--data", desk / "table.csv", "--root", desk)):
        done = run("extract", *source, *words)
        assert done.exit_code == 2
        assert "a question quotes {prompt}" in done.stderr
        assert "--prompt TEXT" in done.stderr
        assert not (tmp_path / "store").exists()
    given = run("extract", desk / "0.png", *words, "--prompt", "a fox")
    assert given.exit_code == 0, given.stderr
    assert "1 extracted" in given.stderr
    official = ("--lmm", lmm, "--store", tmp_path / "other")
    useless = run("extract", desk / "0.png", *official, "--prompt", "a fox")
    assert useless.exit_code == 2
    assert "leave out --prompt" in useless.stderr


def test_training_takes_the_vectors_of_image_and_words(desk: Path, store: Path) -> None:
    opened = FeatureStore.open(store)
    samples = load(desk / "table.csv", desk, TableColumns(prompt="words"))
    found = vectors_of(opened, samples)
    assert found is not None
    assert found.shape == (12, 2, owl_checkpoint.WIDTH)
    without = load(desk / "table.csv", desk)
    with pytest.raises(DataError, match=r"has no prompts.*--prompt-column"):
        vectors_of(opened, without)


def test_scores_from_store_and_lmm_agree_and_follow_the_words(
    desk: Path, store: Path, lmm: Path, model: Path
) -> None:
    def scored(prompt: str, *source: object) -> float:
        words = ("--model", model, "--device", "cpu", "--prompt", prompt)
        done = run("score", desk / "1.png", *words, *source)
        assert done.exit_code == 0, done.stderr + done.stdout
        return float(json.loads(done.stdout)["score"])

    from_store, from_lmm = (
        scored("a fox in a hat", *source) for source in (("--store", store), ("--lmm", lmm))
    )
    other = scored("six fingers", "--lmm", lmm)
    # Both are rounded to float16; the LMM runs in float32.
    assert from_lmm == pytest.approx(from_store, abs=0.02 * abs(other - from_store))
    assert other != from_store


def test_evaluation_asks_with_each_images_own_words(
    desk: Path, store: Path, model: Path, tmp_path: Path
) -> None:
    words = ("--data", desk / "table.csv", "--root", desk, "--split", "random-0:train")
    words = (*words, "--model", model, "--store", store, "--device", "cpu", "--resamples", 100)
    done = run("evaluate", *words, "--prompt-column", "words", "--json", tmp_path / "report.json")
    assert done.exit_code == 0, done.stderr
    assert json.loads((tmp_path / "report.json").read_text())["n"] == 8
    refused = run("evaluate", *words)
    assert refused.exit_code == 2
    assert "words that generated the image" in refused.stderr


def test_a_score_without_the_words_is_wrong_use(
    desk: Path, store: Path, lmm: Path, model: Path, tiny_compact: Path
) -> None:
    done = run("score", desk / "1.png", "--model", model, "--lmm", lmm)
    assert done.exit_code == 2
    assert "quotes the words that generated an image (--prompt TEXT" in done.stderr
    useless = run("score", desk / "1.png", "--model", tiny_compact, "--prompt", "a fox")
    assert useless.exit_code == 2
    assert "leave out --prompt" in useless.stderr


def test_in_python_a_missing_prompt_is_an_image_error(desk: Path, store: Path, model: Path) -> None:
    from ma_agiqa.scorer import load as load_scorer

    scorer = load_scorer(model, device="cpu", store=store)
    assert float(scorer(desk / "1.png", prompt="a fox in a hat")) == float(
        next(iter(scorer.score([desk / "1.png"], prompt=lambda _: "a fox in a hat")))
    )
    with pytest.raises(ImageError, match="quotes the words"):
        scorer(desk / "1.png")
    with pytest.raises(ImageError, match="with the prompt 'a chair'"):
        scorer(desk / "1.png", prompt="a chair")


def test_a_prompt_quoting_store_is_refused_when_the_words_are_not_given(
    desk: Path, lmm: Path, tmp_path: Path
) -> None:
    encoder = open_encoder(lmm, device="cpu")
    store = FeatureStore.create(tmp_path / "store", Header(encoder.identity, encoder.width, ASKED))
    with pytest.raises(UsageError, match=r"quotes \{prompt\}"):
        extract(encoder, [desk / "0.png"], store)
