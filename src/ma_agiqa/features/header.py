"""`encoder.json` of a feature store: which encoder and which questions its vectors are of.

    {"format_version", "fingerprint", "encoder": identity, "width", "dtype", "questions"}

Vectors of two encoders never share a store, and a question is its text: both are compared,
so that the error says what differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ma_agiqa.errors import FeatureError
from ma_agiqa.files import write_atomically
from ma_agiqa.lmm.encoder import (
    Question,
    diff_identity,
    fingerprint_of,
    from_record,
    quote_prompts,
    to_record,
)

FILE = "encoder.json"
FORMAT_VERSION = 1
DTYPE = "float16"
"""Of stored vectors: the official one. They are means of a few hundred rounded numbers."""


@dataclass(frozen=True)
class Header:
    """What all vectors of a store have in common.

    Attributes:
        encoder: identity of the encoder; see `lmm.encoder`.
        width: length of one vector.
        questions: in the order of the stored vectors.
    """

    encoder: Mapping[str, Any]
    width: int
    questions: tuple[Question, ...]

    @property
    def fingerprint(self) -> str:
        """Of the encoder."""
        return fingerprint_of(self.encoder)

    @property
    def quotes_prompts(self) -> bool:
        """Whether vectors also depend on the words that generated each image."""
        return quote_prompts(self.questions)

    def require_encoder(self, expected: Mapping[str, Any], *, source: str | Path) -> None:
        """Raise FeatureError, with what differs, unless this is the encoder expected."""
        if self.fingerprint != fingerprint_of(expected):
            raise FeatureError(
                f"holds vectors of encoder {self.fingerprint}, expected "
                f"{fingerprint_of(expected)} ({diff_identity(expected, self.encoder)})",
                path=source,
                remedy="use a store of that encoder, or extract into a new one",
            )

    def columns_of(self, wanted: Sequence[Question], *, source: str | Path) -> list[int]:
        """Return where the vectors of each question stand.

        Raises:
            FeatureError: a question is not there, or has another text.
        """
        names = [question.name for question in self.questions]
        for question in wanted:
            if question.name not in names:
                raise FeatureError(
                    f"has no vectors for question {question.name!r}, only {', '.join(names)}",
                    path=source,
                    remedy="extract into a new store with all questions",
                )
            own = self.questions[names.index(question.name)]
            if own.fingerprint != question.fingerprint:
                raise FeatureError(
                    f"question {own.name!r} was {own.text!r} ({own.fingerprint}) when vectors "
                    f"were extracted, expected {question.text!r} ({question.fingerprint})",
                    path=source,
                    remedy="another text is another question: extract into a new store",
                )
        return [names.index(question.name) for question in wanted]

    def write(self, folder: Path) -> None:
        """Write `encoder.json`."""
        data = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "encoder": dict(self.encoder),
            "width": self.width,
            "dtype": DTYPE,
            "questions": to_record(self.questions),
        }
        write_atomically(folder / FILE, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read(folder: Path) -> Header:
    """Read `encoder.json`.

    Raises:
        FeatureError: no feature store, or a damaged one, or one of a newer version.
    """
    path = folder / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version, dtype = data["format_version"], data["dtype"]
        header = Header(
            encoder=dict(data["encoder"]),
            width=int(data["width"]),
            questions=from_record(data["questions"], source=path),
        )
        recorded = data["fingerprint"]
    except FileNotFoundError as error:
        raise FeatureError(
            f"this is no feature store: it has no {FILE}",
            path=folder,
            remedy="`ma-agiqa extract` makes one",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FeatureError(f"damaged: {error!r}", path=path) from error
    if (version, dtype) != (FORMAT_VERSION, DTYPE):
        raise FeatureError(
            f"written in format {version} with {dtype} vectors, this version reads format "
            f"{FORMAT_VERSION} with {DTYPE}",
            path=path,
            remedy="pip install --upgrade ma-agiqa",
        )
    if recorded != header.fingerprint:
        raise FeatureError(
            f"its encoder parts give fingerprint {header.fingerprint}, recorded is {recorded}",
            path=path,
            remedy="the file was edited or damaged: restore it",
        )
    return header
