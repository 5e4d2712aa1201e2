"""Images on their way from a source to the network: decoded ahead, grouped by size.

The window is bounded, so memory is too, however long the source. Which images share a
batch follows from input order and sizes alone, never from which one happened to be decoded
first, so a repeated run forms the same batches.

What this file does not do: run the network, or know how an image is decoded.

Shapes: H, W prepared height and width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from ma_agiqa.errors import ImageError
from ma_agiqa.types import Score

if TYPE_CHECKING:
    from torch import Tensor

WINDOW_BATCHES = 3
"""How many batches of images are pending at most: read, being decoded, or decoded."""

GROUPING_BATCHES = 2
"""How many of them are searched for images of one size; the rest decode meanwhile."""


class Prepared(NamedTuple):
    """What the network needs of one image.

    Attributes:
        tensor: the prepared pixels, (3, H, W).
        semantics: what the source of semantic vectors keeps of it, if there is a source.
        hint: what may mislead the score, if anything.
    """

    tensor: Tensor
    semantics: Any = None
    hint: str | None = None


@dataclass
class Pending:
    """One image: first a future, then prepared or an error, at last a score."""

    label: str
    future: Future[Prepared] | None = None
    tensor: Tensor | None = None
    semantics: Any = None
    hint: str | None = None
    error: str | None = None
    score: Score | None = None

    def settle(self) -> None:
        """Wait until the image is decoded or has failed."""
        if self.future is None:
            return
        try:
            self.tensor, self.semantics, self.hint = self.future.result()
        except ImageError as error:
            self.error = error.without_path
        except MemoryError:
            self.error = "not enough memory to decode the image"
        self.future = None


class Window:
    """The images taken from a source and not yet handed out, oldest first.

    Args:
        sources: what to decode, in order.
        label: names a source, given its position.
        submit: starts decoding a source.
        batch_size: most images of a batch.
    """

    def __init__(
        self,
        sources: Iterable[Any],
        *,
        label: Callable[[Any, int], str],
        submit: Callable[[Any], Future[Prepared]],
        batch_size: int,
    ) -> None:
        self._items: deque[Pending] = deque()
        self._sources: Iterator[Any] | None = enumerate(sources)
        self._label, self._submit = label, submit
        self._batch_size = batch_size
        self._failure: Exception | None = None

    def fill(self) -> bool:
        """Take sources until the window is full; False when nothing is left.

        An error of the source itself is raised once all it gave before is handed out.
        """
        while self._sources is not None and len(self._items) < WINDOW_BATCHES * self._batch_size:
            try:
                index, source = next(self._sources)
            except StopIteration:
                self._sources = None
            except Exception as error:
                self._sources, self._failure = None, error
            else:
                self._items.append(Pending(self._label(source, index), self._submit(source)))
        if not self._items and self._failure is not None:
            raise self._failure
        return bool(self._items)

    def next_batch(self) -> list[Pending]:
        """Return the oldest image and others of its size; empty if it needs no network."""
        if self._items[0].score is not None:
            return []
        near = list(islice(self._items, GROUPING_BATCHES * self._batch_size))
        for item in near:
            item.settle()
        first = near[0].tensor
        if first is None:
            return []
        same = [i for i in near if i.tensor is not None and i.tensor.shape == first.shape]
        return same[: self._batch_size]

    def pop(self) -> Pending:
        """Hand out the oldest image."""
        return self._items.popleft()
