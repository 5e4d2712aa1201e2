"""mPLUG-Owl2 sees token ids by the slow LLaMA rules and the official code's pixels."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ma_agiqa.errors import ImageError, MissingExtraError, ModelError, UsageError
from ma_agiqa.lmm.encoder import OFFICIAL, Question, open_encoder
from ma_agiqa.lmm.mplug_owl2.encoder import (
    MAX_SIDE,
    MPLUGOwl2Encoder,
    Tokenizer,
    image_prompt_ids,
    preprocess,
)
from ma_agiqa.lmm.weights import fingerprint_of_weights, open_checkpoint
from support import tiny_owl
from support.owl_checkpoint import PUBLISHED_SHARDS as SHARDS

sentencepiece = pytest.importorskip("sentencepiece", reason="needs the extra 'paper'")
SHARD = f"pytorch_model-7-of-{SHARDS}.bin"


def encoder(folder: Path, **options: Any) -> MPLUGOwl2Encoder:
    return MPLUGOwl2Encoder.load(folder, **{"dtype": "fp32", **options})


# --- tokens ----------------------------------------------------------------------------------


def test_pieces_around_the_image_are_tokenised_by_themselves(fixtures: Path) -> None:
    recorded = json.loads((fixtures / "prompt.json").read_text())["question_type"]
    for case in recorded.values():
        ids = image_prompt_ids(case["prompt"], lambda text: [3 + b for b in text.encode()])
        assert ids == case["fake_tokenizer_ids"]
        assert ids.index(-200) == case["fake_tokenizer_image_index"]


def test_tokens_follow_the_slow_llama_rules(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tiny_owl.tokenizer_model())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tiny_owl.tokenizer_model())
    ids = Tokenizer(path=tmp_path / "tokenizer.model", vocab_size=360)(OFFICIAL[1].prompt)
    place = ids.index(-200)
    before, after = ids[:place], ids[place + 1 :]
    assert before[0] == pieces.bos_id() == 1
    assert 1 not in before[1:] + after
    spoken = [pieces.id_to_piece(i) for i in before[1:]]
    assert "".join(spoken[:-1]).replace("▁", " ") == " USER: " + OFFICIAL[1].text
    assert spoken[-1] == "<0x0A>"
    # Two spaces: the chunk's own and the one sentencepiece puts before every text.
    assert pieces.id_to_piece(after[0]) == "▁"
    assert "".join(pieces.id_to_piece(i) for i in after) == "▁▁ASSISTANT:"


@pytest.mark.parametrize("prompt", ["no image", "<|image|> and <|image|>"])
def test_a_prompt_needs_exactly_one_image(prompt: str) -> None:
    with pytest.raises(UsageError, match=r"exactly one <\|image\|>, found [02]"):
        image_prompt_ids(prompt, lambda text: [5] * len(text))


def test_without_sentencepiece_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[paper\]'"):
        Tokenizer(path=tmp_path / "tokenizer.model", vocab_size=360)


def test_a_tokenizer_of_another_model_is_refused(published: Path) -> None:
    with pytest.raises(ModelError, match=r"has 360 pieces and BOS 1, the model expects 320 and 1"):
        Tokenizer(path=published / "tokenizer.model", vocab_size=320)


# --- pixels ----------------------------------------------------------------------------------


def test_pixels_equal_the_official_preprocessing_exactly(fixtures: Path) -> None:
    recorded = np.load(fixtures / "preprocess.npz")
    names = [key[:-4] for key in recorded.files if key.endswith("/png")]
    assert len(names) == 5
    for name in names:
        image = Image.open(io.BytesIO(recorded[f"{name}/png"].tobytes())).convert("RGB")
        ours = preprocess(np.asarray(image), side=448)
        sample = ours.reshape(-1)[:: recorded[f"{name}/lmm/stride"]][:2048]
        np.testing.assert_array_equal(sample, recorded[f"{name}/lmm/sample"], err_msg=name)
        if f"{name}/lmm/full" in recorded.files:
            np.testing.assert_array_equal(ours, recorded[f"{name}/lmm/full"])


def test_a_narrow_image_is_padded_on_both_sides() -> None:
    grey = preprocess(np.full((8, 4, 3), 255, np.uint8), side=8)
    assert grey.shape == (3, 8, 8)
    assert np.ptp(grey[:, :, :1]) < np.ptp(grey)  # the edge is one colour per channel
    assert (grey[:, :, 4] > grey[:, :, 0]).all()


def test_one_pixel_is_an_image() -> None:
    assert preprocess(np.zeros((1, 1, 3), np.uint8), side=56).shape == (3, 56, 56)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, MAX_SIDE + 1, 3), np.uint8),
    ],
    ids=["grey", "alpha", "float", "empty", "too long"],
)
def test_what_is_no_usable_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"expected a uint8 array|exceed 16384"):
        preprocess(image, side=56)


# --- vectors ---------------------------------------------------------------------------------


def test_real_images_give_the_same_vectors_by_both_schedules(
    published: Path, agiqa_3k: Path
) -> None:
    paths = sorted((agiqa_3k / "images").iterdir())[:3]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    assert len(images) == 3
    ours = encoder(published)
    cached = ours.encode(images, OFFICIAL)
    ours.schedule = "official"
    official = ours.encode(images, OFFICIAL)
    # Float32 sums in another order.
    torch.testing.assert_close(cached, official, rtol=0, atol=5e-6 * official.std().item())
    assert (cached[0] - cached[1]).abs().max() > 1e-3 * official.std()


def test_the_encoder_takes_any_questions(published: Path, two_images: list[np.ndarray]) -> None:
    owl = encoder(published)
    questions = (*OFFICIAL, Question(name="hands", text="How many fingers has each hand?"))
    three = owl.encode(two_images, questions)
    assert three.shape == (2, 3, owl.width)
    one = owl.encode(two_images[:1], questions[2:])
    # Another batch, the same sums in another order.
    torch.testing.assert_close(one[0, 0], three[0, 2], rtol=0, atol=5e-6 * three.std().item())


def test_the_encoders_fingerprint_follows_weights_and_dtype(
    published: Path, tmp_path: Path
) -> None:
    files = fingerprint_of_weights(open_checkpoint(published))
    first = encoder(published).fingerprint
    published.rename(tmp_path / "moved")
    assert encoder(tmp_path / "moved").fingerprint == first
    assert encoder(tmp_path / "moved", dtype="bf16").fingerprint != first
    shard = tmp_path / "moved" / SHARD
    torch.save({k: v + 1 for k, v in torch.load(shard).items()}, shard)
    assert fingerprint_of_weights(open_checkpoint(tmp_path / "moved")) != files
    assert encoder(tmp_path / "moved").fingerprint != first


def test_quantisation_without_a_gpu_is_refused_before_weights_are_read(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(UsageError, match="4-bit weights need a CUDA device, this is cpu"):
        open_encoder(published, device="cpu", load_in=4)
