"""The questions that a large multimodal model is asked about an image, and their prompt.

Source: getFeature.py of the official code (texts) and its conversation template without
system text (prompt). The image goes *after* the question. The order is the official model's:
meaning first, then coherence.
Other questions are data: a TOML or JSON file of `name = "text"` pairs. `{prompt}` in a text
stands for the words that generated the image, so that one can ask how well it shows them.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ma_agiqa.errors import FeatureError, MissingExtraError, UsageError

IMAGE_MARK = "<|image|>"
BLANK = "{prompt}"
"""Where the words that generated the image go."""

PROMPT = f"USER: {{question}}\n{IMAGE_MARK} ASSISTANT:"
_CONTROL_MARKS = (IMAGE_MARK, "<s>", "</s>", "<unk>")


@dataclass(frozen=True)
class Question:
    """One question about an image.

    Raises:
        UsageError: an unusable name, an empty text, or a text with a mark of the prompt's.
    """

    name: str
    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise UsageError(f"question {self.name!r} has no text")
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.name):
            raise UsageError(f"question name {self.name!r} must be of a-z, 0-9, '-' and '_'")
        marks = [mark for mark in _CONTROL_MARKS if mark in self.text]
        if marks:
            raise UsageError(
                f"question {self.name!r} contains {', '.join(marks)}",
                remedy="write the question alone; the prompt adds the image",
            )

    @property
    def prompt(self) -> str:
        """The whole prompt, with the image's mark."""
        return PROMPT.replace("{question}", self.text)

    @property
    def quotes_prompt(self) -> bool:
        """Whether the text has a place for the words that generated the image."""
        return BLANK in self.text

    def about(self, prompt: str) -> Question:
        """Return the question with the words that generated the image in their place.

        Raises:
            UsageError: the words hold a mark of the prompt's.
        """
        return Question(name=self.name, text=self.text.replace(BLANK, prompt))

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the text and with nothing else."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


MEANING = Question(
    name="meaning",
    text="Evaluate the input image to determine if its quality is compromised due to a lack of "
    "meaningful semantic content.",
)
COHERENCE = Question(
    name="coherence",
    text="Evaluate if the image quality is compromised due to violations of coherence.",
)
OFFICIAL = (MEANING, COHERENCE)


def read_questions(path: Path) -> tuple[Question, ...]:
    """Read questions from a `.toml` or `.json` file of name and text pairs, in file order.

    Raises:
        UsageError: the file cannot be read or does not hold questions.
    """
    try:
        data = _parse(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {error}", path=path) from error
    except ValueError as error:  # both parsers' errors are ValueErrors
        raise UsageError(f"damaged: {error}", path=path) from error
    if not isinstance(data, Mapping) or not data:
        raise UsageError(
            "holds no questions", path=path, remedy='write one line per question: name = "text"'
        )
    try:
        return tuple(Question(name=name, text=text) for name, text in data.items())
    except UsageError as error:
        raise UsageError(error.reason, path=path, remedy=error.remedy) from error


def quote_prompts(questions: Sequence[Question]) -> bool:
    """Say whether any question asks about the words that generated the image."""
    return any(question.quotes_prompt for question in questions)


def require_prompts(questions: Sequence[Question], prompts: Sequence[str] | None) -> None:
    """Raise UsageError if a question quotes prompts and there are none."""
    if prompts is None and quote_prompts(questions):
        raise UsageError(
            "a question quotes {prompt}, and the words that generated the images are not given",
            remedy="--prompt TEXT for all, or --data with a prompt column",
        )


def to_record(questions: Sequence[Question]) -> dict[str, dict[str, str]]:
    """Return questions as they stand in a model's or a feature store's JSON, in their order."""
    return {q.name: {"text": q.text, "fingerprint": q.fingerprint} for q in questions}


def from_record(record: Mapping[str, Any], *, source: str | Path) -> tuple[Question, ...]:
    """Read what `to_record` wrote.

    Raises:
        FeatureError: not such a record, or a text that its fingerprint does not belong to.
    """
    try:
        questions = tuple(Question(name=n, text=entry["text"]) for n, entry in record.items())
        wrong = [q.name for q in questions if record[q.name]["fingerprint"] != q.fingerprint]
    except (TypeError, KeyError, AttributeError, UsageError) as error:
        raise FeatureError(f"the record of questions is damaged: {error}", path=source) from error
    if wrong:
        raise FeatureError(
            f"the text of question {', '.join(wrong)} was changed after features were extracted",
            path=source,
            remedy="another text is another question: extract into a new store",
        )
    return questions


def _parse(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix != ".toml":
        raise UsageError("questions are read from .toml or .json files", path=path)
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise MissingExtraError("tomli", "paper") from error
    return tomllib.loads(text)
