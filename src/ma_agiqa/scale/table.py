"""Score a table: what Ray Data, Daft and Spark call in their workers.

    ray    dataset.map_batches(ScoreTable, batch_format="pyarrow", ...)
    daft   a class decorated with daft.cls that holds one
    spark  frame.mapInArrow(lambda batches: ..., schema)

Made once per worker, it loads the model once. A row that fails is a row with an error, so an
engine has nothing to retry.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from ma_agiqa import images
from ma_agiqa.data.sources import Item, read_bytes
from ma_agiqa.errors import DataError
from ma_agiqa.isolation import IsolatedDecoder
from ma_agiqa.scorer import load
from ma_agiqa.text import printable
from ma_agiqa.types import RGB, Score

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("score", pa.float64()),
        ("percentile", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("model", pa.string()),
        ("error", pa.string()),
    ]
)
"""Of the result; with contributions, `CONTRIBUTIONS` stands behind these."""

CONTRIBUTIONS = pa.field("contributions", pa.map_(pa.string(), pa.float64()))


class ScoreTable:
    """Turn an Arrow table of images into one of scores, row for row.

    Args:
        model, revision, lmm, dtype: as `ma_agiqa.load` takes them.
        device: `auto` takes the GPU that the engine gives its worker.
        threads: cores of this worker; None for all of the machine.
        contributions: also return what each expert adds.
        isolate: decode in child processes, so that an image that makes its decoder crash costs its
            row and not the worker.

    Raises:
        UsageError, ModelError, FeatureError: as `ma_agiqa.load`.
    """

    def __init__(
        self,
        model: str = "compact",
        *,
        revision: str | None = None,
        lmm: str | None = None,
        dtype: str | None = None,
        device: str = "auto",
        threads: int | None = 1,
        contributions: bool = False,
        isolate: bool = False,
    ) -> None:
        self.scorer = load(
            model, device=device, workers=threads, revision=revision, lmm=lmm, dtype=dtype
        )
        self.contributions = contributions
        self.schema = SCHEMA.append(CONTRIBUTIONS) if contributions else SCHEMA
        self._decode: Callable[..., RGB] = images.decode
        if isolate:
            decoder = IsolatedDecoder(self.scorer.workers)
            weakref.finalize(self, decoder.close)
            self._decode = decoder

    def __call__(self, table: pa.Table) -> pa.Table:
        """Score a table.

        Args:
            table: a column `id`, and one of the two: `bytes`, the content of image files, or `uri`,
                paths or addresses that fsspec opens.

        Returns:
            A table of `schema`, its rows in the order of `table`.

        Raises:
            DataError: a column is missing.
        """
        content = next((name for name in ("bytes", "uri") if name in table.column_names), None)
        if content is None or "id" not in table.column_names:
            raise DataError(
                f"the table needs id, and bytes or uri; it has {', '.join(table.column_names)}"
            )
        pairs = zip(table["id"].to_pylist(), table[content].to_pylist(), strict=True)
        return self.to_table(self.score(_item(str(name), value) for name, value in pairs))

    def score(self, items: Iterable[Item]) -> Iterator[tuple[str, Score]]:
        """Yield the name of each item and its score, in order."""
        names: list[str] = []

        def noted() -> Iterator[Item]:
            for item in items:
                names.append(item.name)
                yield item

        scores = self.scorer.score(
            noted(), explain=self.contributions, read=self._read, content=_no_file
        )
        for position, score in enumerate(scores):
            yield names[position], score

    def to_table(self, scored: Iterable[tuple[str, Score]]) -> pa.Table:
        """Return scores as a table of `schema`."""
        rows = [
            {
                "id": printable(name),
                "score": score.score,
                "percentile": score.percentile,
                "low": score.low,
                "high": score.high,
                "model": score.model,
                "error": score.error and printable(score.error),
                "contributions": score.contributions and list(score.contributions.items()),
            }
            for name, score in scored
        ]
        return pa.Table.from_pylist(rows, schema=self.schema)

    def _read(self, item: Item) -> RGB:
        return self._decode(item.read(), name=item.name)


def _item(name: str, value: Any) -> Item:
    return Item(name, lambda: value if isinstance(value, bytes) else read_bytes(value or ""))


def _no_file(item: Item) -> None:
    """Stored features are found by the hash of a file; here an LMM computes them."""
