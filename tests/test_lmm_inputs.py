"""What mPLUG-Owl2 is given: token ids by the slow LLaMA rules, pixels as the official code's."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny_owl
from ma_agiqa.errors import ImageError, MissingExtraError, UsageError
from ma_agiqa.experts.questions import OFFICIAL
from ma_agiqa.lmm.mplug_owl2.pixels import MAX_SIDE, preprocess
from ma_agiqa.lmm.mplug_owl2.tokenizer import Tokenizer, image_prompt_ids

sentencepiece = pytest.importorskip("sentencepiece", reason="needs the extra 'paper'")

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
    with pytest.raises(MissingExtraError, match=r"pip install 'ma-agiqa\[paper\]'"):
        Tokenizer(path=tmp_path / "tokenizer.model", vocab_size=360)


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
