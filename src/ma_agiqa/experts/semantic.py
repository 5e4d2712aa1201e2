"""What a large multimodal model must offer to be used as a semantic expert.

An encoder is named by its parts: everything that vectors depend on besides the image and the
question. Its fingerprint is a hash of them, so two that differ can be told apart part by part.

Shapes: B images, K questions, D width of one vector.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ma_agiqa.errors import ImageError, UsageError
from ma_agiqa.experts.questions import Question
from ma_agiqa.types import RGB

if TYPE_CHECKING:
    from torch import Tensor


class SemanticEncoder(Protocol):
    """A frozen model that turns an image and a question into a vector."""

    @property
    def parts(self) -> Mapping[str, Any]:
        """What changes vectors, by name: weights, preprocessing, prompt, dtype; JSON data."""
        ...

    @property
    def fingerprint(self) -> str:
        """`fingerprint_of(parts)`."""
        ...

    @property
    def width(self) -> int:
        """D."""
        ...

    def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
        """Return one vector per image and question, (B, K, D), float32.

        Raises:
            ImageError: an image that cannot be used; no vector of the batch is returned.
        """
        ...


def encode_with_prompts(
    encoder: SemanticEncoder,
    images: Sequence[RGB],
    questions: Sequence[Question],
    prompts: Sequence[str | None],
) -> Tensor:
    """Return the vectors of images whose questions quote the words that generated each.

    Images of equal words go through together: to them the questions are the same.

    Args:
        prompts: the words behind each image; None where no question quotes them.

    Raises:
        ImageError: an image cannot be used, or its words cannot be asked about.
    """
    if not len(images):
        return encoder.encode(images, questions)
    import torch

    alike: dict[str | None, list[int]] = {}
    for i, prompt in enumerate(prompts):
        alike.setdefault(prompt, []).append(i)
    vectors: list[Tensor | None] = [None] * len(images)
    for prompt, members in alike.items():
        own = [images[i] for i in members]
        if prompt is None:
            found = encoder.encode(own, questions)
        else:
            try:
                found = encoder.encode(own, [question.about(prompt) for question in questions])
            except UsageError as error:  # these words are one image's, not the user's request
                raise ImageError(f"its prompt cannot be asked about: {error}") from error
        for i, vector in zip(members, found, strict=True):
            vectors[i] = vector
    return torch.stack([vector for vector in vectors if vector is not None])


def fingerprint_of(parts: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that change with any part."""
    text = json.dumps(dict(parts), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Say in which parts two encoders differ, with both values: `dtype: a, not b`."""
    names = [
        name for name in {**expected, **found} if _plain(expected, name) != _plain(found, name)
    ]
    return "; ".join(f"{n}: {_plain(found, n)}, not {_plain(expected, n)}" for n in names)


def _plain(parts: Mapping[str, Any], name: str) -> str:
    return json.dumps(parts[name]) if name in parts else "nothing"


class DeferredEncoder:
    """An encoder known by its parts, whose weights are read at the first image.

    Args:
        load: makes the encoder that `parts` and `width` describe.
    """

    def __init__(
        self, *, parts: Mapping[str, Any], width: int, load: Callable[[], SemanticEncoder]
    ) -> None:
        self.parts, self.width = dict(parts), width
        self._load, self._lock = load, threading.Lock()
        self._loaded: SemanticEncoder | None = None

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the parts."""
        return fingerprint_of(self.parts)

    @property
    def loaded(self) -> bool:
        """Whether the weights have been read."""
        return self._loaded is not None

    def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
        """Return (B, K, D), float32; see `SemanticEncoder`."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
        return self._loaded.encode(images, questions)
