"""Inputs through a scorer to rows, in order, those of an earlier run reused.

`score` and `gallery` share it; `explain` uses its upper half.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from ma_agiqa.cli.inputs import Input
from ma_agiqa.errors import ImageError

if TYPE_CHECKING:
    from ma_agiqa.cli.journal import Journal
    from ma_agiqa.metadata import Generation
    from ma_agiqa.scorer import Scorer
    from ma_agiqa.types import RGB, Row, Score


def scored(
    items: Iterable[Input],
    scorer: Scorer,
    *,
    decode: Callable[..., RGB],
    prompt: str | None = None,
    explain: bool = False,
    look: Callable[[Input, RGB], object] | None = None,
) -> Iterator[tuple[Input, Score]]:
    """Yield each input with its score, which may be an error.

    Args:
        decode: as `images.decode`.
        prompt: words that generated the images, for a model that asks for them.
        look: is shown each decoded image, in a worker thread.
    """
    waiting: deque[Input] = deque()

    def noted() -> Iterator[Input]:
        for item in items:
            waiting.append(item)
            yield item

    def read(item: Input) -> RGB:
        rgb = item.read(decode)
        if look is not None:
            look(item, rgb)
        return rgb

    for score in scorer.score(
        noted(),
        explain=explain,
        read=read,
        content=lambda item: item.sha256,
        prompt=lambda _: prompt,
    ):
        item = waiting.popleft()
        yield item, dataclasses.replace(score, path=item.path)


def rows(
    items: Iterable[Input],
    scorer: Scorer,
    journal: Journal | None,
    *,
    more: Callable[[Input, Score], dict[str, Any]] = lambda item, score: {},
    **options: Any,
) -> Iterator[tuple[Input, Row, bool]]:
    """Yield each input with its row, and whether that is one an earlier run kept.

    Args:
        more: what a row holds beside the columns of results; the journal gives it back.
        options: of `scored`.
    """
    looked_up = ((item, _kept(item, journal)) for item in items)
    for reused, run in groupby(looked_up, key=lambda pair: pair[1] is not None):
        if reused:
            yield from ((item, item.row(row), True) for item, row in run if row is not None)
        else:
            for item, score in scored((item for item, _ in run), scorer, **options):
                yield item, item.row({**score.to_row(), **more(item, score)}), False


class Readers(NamedTuple):
    """What reads encoded images: their pixels, and how they were generated."""

    decode: Callable[..., RGB]
    generation: Callable[[bytes], Generation]


@contextmanager
def readers(scorer: Scorer, ignore_profiles: bool, isolate: bool) -> Iterator[Readers]:
    """Give what reads images as the options of a command want it."""
    from ma_agiqa import images, metadata
    from ma_agiqa.isolation import IsolatedDecoder

    with ExitStack() as stack:
        read = Readers(images.decode, metadata.generation_of)
        if isolate:
            children = stack.enter_context(IsolatedDecoder(scorer.workers))
            read = Readers(children, children.generation_of)
        yield read._replace(decode=partial(read.decode, colour_profile=not ignore_profiles))


def _kept(item: Input, journal: Journal | None) -> Row | None:
    if journal is None or not journal.knows(item.path):
        return None
    try:
        item.read_bytes()
    except ImageError:
        return None  # gone since; scoring it makes the row that says so
    return journal.reusable(item.path, item.sha256)
