"""`ma-agiqa score`: parse, call the scorer, hand the rows on.

What this file does not do: read images or know models; see `scorer.py`. What becomes of
a row stands in `results.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ma_agiqa.cli import options, stream
from ma_agiqa.cli.inputs import Input, Listing, begun, count
from ma_agiqa.cli.progress import progress
from ma_agiqa.cli.results import (
    Few,
    Format,
    Results,
    is_results,
    make_printer,
    prepare_output,
    read_results,
)
from ma_agiqa.errors import UsageError

if TYPE_CHECKING:
    from ma_agiqa.scorer import Scorer

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Images, folders (with all below), quoted globs, tar and zip archives, addresses such "
        "as s3://bucket/folder, - for a list of paths on stdin, with --column a CSV, Parquet or "
        "Excel table, or a result file of `score` alone, which is not scored again.",
    ),
]
Column = Annotated[
    str | None,
    typer.Option(help="Column of a table that holds paths or, in a Parquet file, the images."),
]
Id = Annotated[
    str | None, typer.Option("--id", help="Column that names the images which a table holds.")
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Only every Nth input, from the Ith on: N such runs share the work of one.",
    ),
]
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
Worst = Annotated[
    int | None,
    typer.Option(metavar="K", min=1, help="Only the K worst, worst first; the same otherwise."),
]
Metadata = Annotated[
    bool,
    typer.Option(
        "--metadata",
        help="Rows say how a picture was generated, where its file does: prompt, checkpoint, "
        "seed, steps, sampler.",
    ),
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
    names: Id = None,
    keep_columns: KeepColumns = False,
    shard: Shard = None,
    to: Output = None,
    style: Style = None,
    top: Top = None,
    worst: Worst = None,
    fail_under: FailUnder = None,
    metadata: Metadata = False,
    ignore_profiles: options.IgnoreProfiles = False,
    isolate: options.Isolate = False,
    quiet: options.Quiet = False,
) -> None:
    """Score images: the opinion score that people would give, and how it ranks among theirs.

    A bad image becomes a row with an error and the run goes on. Rows keep the input's order.

    Exit status: 0 all good, 1 some inputs failed, 2 wrong use, 3 --fail-under was missed.
    """
    if fail_under is not None and not math.isfinite(fail_under):
        raise UsageError(f"--fail-under needs a finite number, got {fail_under}")
    if top is not None and worst is not None:
        raise UsageError("--top and --worst exclude each other")
    first, step = _shard(shard)
    if to is not None:
        prepare_output(to)
    printer = make_printer(style, to_file=to is not None)
    few = Few(top or worst or 0, worst=worst is not None) if top or worst else None
    made = [Path(word) for word in words if column is None and is_results(Path(word))]
    if made:
        if len(made) < len(words):
            raise UsageError(f"{made[0]} holds results: give it alone, or images alone")
        if shard is not None or metadata or prompt is not None:
            raise UsageError(
                f"{made[0]} holds results, which are not scored again",
                remedy="leave out --shard, --metadata and --prompt, or give the images",
            )
        results = Results(printer, to=to, model="read", few=few, fail_under=fail_under)
        with results:
            for row in chain.from_iterable(map(read_results, made)):
                results.add(row, sha256=None, reused=True)
        raise typer.Exit(options.INTERRUPTED if results.interrupted else results.status())
    listing = Listing(words, column=column, root=root, keep_columns=keep_columns, names=names)
    items: Iterator[Input] = islice(begun(listing), first, None, step)

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
        fingerprint += "+colours as stored" if ignore_profiles else ""
    results = Results(printer, to=to, model=fingerprint, few=few, fail_under=fail_under)

    def total() -> int | None:
        inputs = count(words, column, root)
        return None if inputs is None else len(range(first, inputs, step))

    with ExitStack() as stack:
        read = stack.enter_context(stream.readers(scorer, ignore_profiles, isolate))
        if metadata:
            items = (item.with_metadata(read.generation) for item in items)
        stack.enter_context(results)
        shown = stack.enter_context(progress(total, title="scoring", quiet=quiet))
        for item, row, reused in stream.rows(
            items, scorer, results.journal, decode=read.decode, prompt=prompt
        ):
            results.add(row, sha256=item.sha256, reused=reused)
            if few is not None and row["error"] is not None:
                shown.say(f"failed: {row['path']}: {row['error']}")
            shown.advance()
    if not quiet:
        typer.echo("\n".join(filter(None, [results.summary(), listing.note()])), err=True)
    raise typer.Exit(options.INTERRUPTED if results.interrupted else results.status())


def _shard(text: str | None) -> tuple[int, int]:
    """Return the position of the first input of a shard, and the step to the next."""
    if text is None:
        return 0, 1
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--shard takes I/N with I from 1 to N, such as 3/16, got {text!r}")
    return int(found[1]) - 1, int(found[2])


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
