"""The questions are the official ones, others are data, and some quote the words of an image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ma_agiqa.errors import UsageError
from ma_agiqa.lmm.encoder import (
    COHERENCE,
    MEANING,
    OFFICIAL,
    Question,
    encode_with_prompts,
    quote_prompts,
    read_questions,
)

SHOWN = Question("shown", "Does it show {prompt}?")
PLAIN = Question("plain", "Is it a good picture?")


def test_the_official_questions_and_prompts_are_verbatim(fixtures: Path) -> None:
    recorded = json.loads((fixtures / "prompt.json").read_text())["question_type"]
    for number, question in {"1": COHERENCE, "2": MEANING}.items():
        assert question.text == recorded[number]["question"]
        assert question.prompt == recorded[number]["prompt"]


def test_the_prompt_has_no_system_text_and_the_image_after_the_question() -> None:
    assert COHERENCE.prompt == (
        "USER: Evaluate if the image quality is compromised due to violations of coherence.\n"
        "<|image|> ASSISTANT:"
    )


def test_meaning_comes_before_coherence_as_in_the_official_model() -> None:
    assert [question.name for question in OFFICIAL] == ["meaning", "coherence"]


def test_fingerprints_follow_the_text_and_never_the_name() -> None:
    # Literal, because stored features carry it: a change orphans them.
    assert MEANING.fingerprint == "409f0b27e8eb08d2"
    assert COHERENCE.fingerprint == "a8224a4df34f5970"
    assert Question(name="other", text=MEANING.text).fingerprint == MEANING.fingerprint
    assert Question(name="meaning", text=MEANING.text + " ").fingerprint != MEANING.fingerprint


def test_a_question_may_contain_braces() -> None:
    assert Question(name="q", text="Is {this} fine?").prompt.startswith("USER: Is {this} fine?\n")


@pytest.mark.parametrize("mark", ["<|image|>", "</s>", "<s>"])
def test_a_question_with_a_mark_of_the_prompt_is_refused(mark: str) -> None:
    with pytest.raises(UsageError, match=r"question 'q' contains .* the prompt adds the image"):
        Question(name="q", text=f"What is {mark} in it?")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("q", "", "'q' has no text"),
        ("q", " \n", "'q' has no text"),
        ("two words", "What?", "must be of a-z, 0-9"),
        ("", "What?", "must be of a-z, 0-9"),
        ("../q", "What?", "must be of a-z, 0-9"),
    ],
)
def test_an_unusable_question_is_refused(name: str, text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Question(name=name, text=text)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("q.toml", 'beauty = "Is it beautiful?"\nhands = "How many fingers per hand, naïvely?"\n'),
        (
            "q.json",
            '{"beauty": "Is it beautiful?", "hands": "How many fingers per hand, naïvely?"}',
        ),
    ],
)
def test_questions_are_read_in_file_order(tmp_path: Path, file: str, content: str) -> None:
    path = tmp_path / file
    path.write_text(content, encoding="utf-8")
    assert read_questions(path) == (
        Question(name="beauty", text="Is it beautiful?"),
        Question(name="hands", text="How many fingers per hand, naïvely?"),
    )


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("q.toml", b"beauty = ", "q.toml: damaged"),
        ("q.json", b"{", "q.json: damaged"),
        ("q.json", b"\xff\xfe", "q.json: cannot be read"),
        ("q.json", b"[]", "q.json: holds no questions"),
        ("q.toml", b"", "q.toml: holds no questions"),
        ("q.json", b'{"beauty": 3}', "q.json: question 'beauty' has no text"),
        ("q.json", b'{"q": "an <|image|>"}', r"q.json: question 'q' contains <\|image\|>"),
        ("q.txt", b"What?", r"q.txt: questions are read from .toml or .json"),
    ],
)
def test_a_wrong_question_file_is_refused_by_name(
    tmp_path: Path, file: str, content: bytes, reason: str
) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UsageError, match=reason):
        read_questions(tmp_path / file)


def test_a_missing_question_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.toml: cannot be read"):
        read_questions(tmp_path / "none.toml")


# --- words behind the image ------------------------------------------------------------------


def test_the_words_stand_in_the_question() -> None:
    assert SHOWN.quotes_prompt
    assert not PLAIN.quotes_prompt
    assert SHOWN.about("a {prompt} of foxes").text == "Does it show a {prompt} of foxes?"
    assert PLAIN.about("foxes") == PLAIN
    assert quote_prompts((SHOWN, PLAIN))
    assert not quote_prompts(OFFICIAL)


def test_images_of_equal_words_go_through_together() -> None:
    class Counting:
        width = 1

        def __init__(self) -> None:
            self.calls: list[tuple[int, str]] = []

        def encode(self, images: list[np.ndarray], questions: list[Question]) -> torch.Tensor:
            self.calls.append((len(images), questions[0].text))
            return torch.tensor([[[float(image.sum())]] for image in images])

    images = [np.full((1, 1, 3), value, np.uint8) for value in range(5)]
    encoder = Counting()
    found = encode_with_prompts(encoder, images, [SHOWN], ["x", "y", "x", "x", "y"])  # type: ignore[arg-type]
    assert found.flatten().tolist() == [0, 3, 6, 9, 12], "in the order of the images"
    assert encoder.calls == [(3, "Does it show x?"), (2, "Does it show y?")]
