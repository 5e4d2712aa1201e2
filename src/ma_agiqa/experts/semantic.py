"""What a large multimodal model must offer to be used as a semantic expert.

Shapes: B images, K questions, D width of one vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ma_agiqa.experts.questions import Question
from ma_agiqa.types import RGB

if TYPE_CHECKING:
    from torch import Tensor


class SemanticEncoder(Protocol):
    """A frozen model that turns an image and a question into a vector."""

    @property
    def fingerprint(self) -> str:
        """Changes with whatever changes vectors: weights, preprocessing, prompt, dtype."""
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
