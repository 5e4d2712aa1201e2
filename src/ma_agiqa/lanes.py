"""Work side by side on a CPU, each piece on one thread of its own.

A network of many small operations gains little from several threads on each operation, and
loses much where decoding takes one of them away: the others wait for it at the end of every
operation. Whole images side by side keep every core busy, and what is computed for one image
does not depend on how many cores there are.

What this file does not do: decide what suits which network, or which images go together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Lanes:
    """A pool of threads in each of which torch uses one thread; one `map` at a time.

    Args:
        count: most pieces worked on at once.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(
            count,
            thread_name_prefix="ma-agiqa-lane",
            # A thread takes its number of threads when it first asks for it, for good.
            initializer=torch.get_num_threads,
        )

    def map(self, work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> list[Result]:
        """Return the results of `work` on all pieces, in order.

        Raises:
            Exception: what `work` raised for the first piece that failed.
        """
        with one_thread():
            return list(self._pool.map(work, pieces))


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch use one thread in threads that start now, and in this one, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
