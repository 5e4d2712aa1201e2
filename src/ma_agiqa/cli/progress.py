"""How far a run is, on stderr and only on a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(
    count: Callable[[], int | None], *, title: str, quiet: bool
) -> Iterator[Callable[[], None]]:
    """Yield a function to call after every image; show a bar, the rate and the time left.

    Args:
        count: how many images there will be, or None if that cannot be known; it may take
            long, so it runs beside the work.
        title: what is being done.
        quiet: show nothing, as when stderr is not a terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        # Else rows for a pipe on stdout would be led to the bar's stderr.
        redirect_stdout=sys.stdout.isatty(),
    )
    with bar:
        task = bar.add_task(title, total=None, rate="")

        def find_total() -> None:
            bar.update(task, total=count())

        def advance() -> None:
            bar.advance(task)
            speed = bar.tasks[0].speed
            bar.update(task, rate="" if speed is None else f"{speed:.1f} images/s")

        threading.Thread(target=find_total, daemon=True).start()
        yield advance
