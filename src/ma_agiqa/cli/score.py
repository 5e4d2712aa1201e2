"""`ma-agiqa score`: parse, call the scorer, hand the rows on.

What this file does not do: read images or know models; see `scorer.py`. What becomes of
a row stands in `results.py`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ma_agiqa.cli import options
from ma_agiqa.cli.inputs import Input, Listing
from ma_agiqa.cli.progress import progress
from ma_agiqa.cli.results import Format, Results, check_output, make_printer
from ma_agiqa.errors import ImageError, MAAGIQAError, UsageError

if TYPE_CHECKING:
    from ma_agiqa.cli.journal import Journal
    from ma_agiqa.scorer import Scorer
    from ma_agiqa.types import Row

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Images, folders (with all below), quoted globs, - for a list of paths on stdin, "
        "or with --column a CSV, Parquet or Excel table.",
    ),
]
Column = Annotated[str | None, typer.Option(help="Column of a table that holds paths.")]
Root = Annotated[
    Path | None, typer.Option(help="Folder that a table's paths start from; else its own.")
]
KeepColumns = Annotated[
    bool,
    typer.Option(
        "--keep-columns",
        help="Rows carry the other columns of the table too, as text; one named like a column "
        "of the results is called table_NAME.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="FILE",
        help="Write FILE.csv, .jsonl or .parquet, whole or not at all. Until then rows are kept "
        "in FILE.partial, and the same command goes on from there after a stop. Nothing goes "
        "to stdout then, unless that is a terminal or --format is given.",
    ),
]
Style = Annotated[
    Format | None,
    typer.Option("--format", help="Of stdout: else a table on a terminal, JSON lines in a pipe."),
]
Top = Annotated[
    int | None,
    typer.Option(metavar="K", min=1, help="Only the K best, best first; failures go to stderr."),
]
FailUnder = Annotated[
    float | None,
    typer.Option(metavar="X", help="Exit with 3 if a score is below X (1 if inputs failed too)."),
]


def score(
    words: Words,
    model: options.Model = "compact",
    revision: options.Revision = None,
    store: options.Store = None,
    lmm: options.Lmm = None,
    dtype: options.Dtype = None,
    prompt: options.Prompt = None,
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    column: Column = None,
    root: Root = None,
    keep_columns: KeepColumns = False,
    to: Output = None,
    style: Style = None,
    top: Top = None,
    fail_under: FailUnder = None,
    quiet: options.Quiet = False,
) -> None:
    """Score images: the opinion score that people would give, and how it ranks among theirs.

    A bad image becomes a row with an error and the run goes on. Rows keep the input's order.

    Exit status: 0 all good, 1 some inputs failed, 2 wrong use, 3 --fail-under was missed.
    """
    if fail_under is not None and not math.isfinite(fail_under):
        raise UsageError(f"--fail-under needs a finite number, got {fail_under}")
    if to is not None:
        check_output(to)
    listing = Listing(words, column=column, root=root, keep_columns=keep_columns)
    items = iter(listing)
    items = chain([next(items)], items)  # "no images" is said before a model is loaded

    from ma_agiqa.models import checkpoint, registry
    from ma_agiqa.scorer import load

    scorer = load(
        model,
        device=device,
        batch_size=batch_size,
        workers=workers,
        revision=revision,
        store=store,
        lmm=lmm,
        dtype=dtype,
    )
    _check_prompt(scorer, prompt)
    fingerprint = ""
    if to is not None:
        fingerprint = checkpoint.fingerprint(registry.find_directory(model, revision=revision))
        if scorer.semantics is not None:
            fingerprint += f"+{scorer.semantics.fingerprint}"
            fingerprint += "" if prompt is None else f"+{prompt}"
    printer = make_printer(style, to_file=to is not None)
    results = Results(printer, to=to, model=fingerprint, top=top, fail_under=fail_under)
    total = partial(_count, words, column, root)
    with results, progress(total, title="scoring", quiet=quiet) as shown:
        for item, row, reused in _rows(items, scorer, results.journal, prompt):
            results.add(row, sha256=item.sha256, reused=reused)
            if top is not None and row["error"] is not None:
                shown.say(f"failed: {row['path']}: {row['error']}")
            shown.advance()
    if not quiet:
        typer.echo("\n".join(filter(None, [results.summary(), listing.note()])), err=True)
    raise typer.Exit(options.INTERRUPTED if results.interrupted else results.status())


def _check_prompt(scorer: Scorer, prompt: str | None) -> None:
    """Raise UsageError unless the prompt is given exactly where a question quotes it."""
    quoted = scorer.semantics is not None and scorer.semantics.quotes_prompts
    if quoted and prompt is None:
        raise UsageError(
            f"a question of {scorer.name} quotes the words that generated an image",
            remedy="--prompt TEXT; for images of different words score a data set: evaluate",
        )
    if prompt is not None and not quoted:
        raise UsageError(f"no question of {scorer.name} quotes a prompt: leave out --prompt")


def _rows(
    items: Iterator[Input], scorer: Scorer, journal: Journal | None, prompt: str | None
) -> Iterator[tuple[Input, Row, bool]]:
    """Yield each input with its row, and whether that is one an earlier run kept."""
    looked_up = ((item, _kept(item, journal)) for item in items)
    for reused, run in groupby(looked_up, key=lambda pair: pair[1] is not None):
        if reused:
            yield from ((item, row, True) for item, row in run if row is not None)
        else:
            yield from _scored((item for item, _ in run), scorer, prompt)


def _kept(item: Input, journal: Journal | None) -> Row | None:
    if journal is None or not journal.knows(item.path):
        return None
    try:
        item.read_bytes()
    except ImageError:
        return None  # gone since; scoring it makes the row that says so
    row = journal.reusable(item.path, item.sha256)
    return None if row is None else item.row(row)


def _scored(
    items: Iterator[Input], scorer: Scorer, prompt: str | None
) -> Iterator[tuple[Input, Row, bool]]:
    waiting: deque[Input] = deque()

    def noted() -> Iterator[Input]:
        for item in items:
            waiting.append(item)
            yield item

    for result in scorer.score(
        noted(), read=Input.read, content=lambda item: item.sha256, prompt=lambda _: prompt
    ):
        item = waiting.popleft()
        yield item, item.row(result.to_row()), False


def _count(words: list[str], column: str | None, root: Path | None) -> int | None:
    """Count the inputs by listing them a second time; None if they come from stdin."""
    if "-" in words:
        return None
    try:
        return sum(1 for _ in Listing(words, column=column, root=root))
    except MAAGIQAError:
        return None  # the run itself meets the same error and reports it
