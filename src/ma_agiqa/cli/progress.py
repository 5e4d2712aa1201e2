"""How far a run is, on stderr: a bar on a terminal, elsewhere a line now and then.

Text that belongs beside a bar goes through it (`say`, `note`): written past it, it would stand
on the bar's own line.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from ma_agiqa.text import for_terminal

LINE_SECONDS = 30.0
"""Time between two lines where there is no terminal."""


class Progress:
    """Nothing shown: the base of what follows, and what --quiet gets."""

    def advance(self, images: int = 1) -> None:
        """Count more images."""

    def say(self, text: str) -> None:
        """Print a line on stderr."""
        typer.echo(for_terminal(text), err=True)


@contextmanager
def progress(count: Callable[[], int | None], *, title: str, quiet: bool) -> Iterator[Progress]:
    """Show how many images are done, how fast, and on a terminal the time left.

    Args:
        count: how many images there will be, or None if that cannot be known; it may take
            long, so it runs beside the work.
        title: what is being done.
        quiet: show nothing.
    """
    if quiet or sys.stderr is None:
        yield Progress()
        return
    shown = Bar(title) if sys.stderr.isatty() else Lines(title)
    with shown:
        threading.Thread(target=lambda: shown.set_total(count()), daemon=True).start()
        yield shown


class Lines(Progress):
    """A line every half a minute, for logs."""

    def __init__(self, title: str) -> None:
        self._title, self._total, self._done = title, "", 0
        self._stopped = threading.Event()

    def __enter__(self) -> Lines:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()

    def set_total(self, total: int | None) -> None:
        self._total = "" if total is None else f" of {total}"

    def advance(self, images: int = 1) -> None:
        self._done += images

    def _run(self) -> None:
        while not self._stopped.wait(LINE_SECONDS):
            self.say(f"{self._title}: {self._done}{self._total} images")


class Bar(Progress):
    """A bar that is gone when the run is over."""

    def __init__(self, title: str) -> None:
        from rich import progress as rich
        from rich.console import Console

        self._bar = rich.Progress(
            rich.TextColumn(title),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[rate]}"),
            rich.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            # Else rows for a pipe on stdout would be led to the bar's stderr.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bar.add_task(title, total=None, rate="")

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def set_total(self, total: int | None) -> None:
        self._bar.update(self._task, total=total)

    def advance(self, images: int = 1) -> None:
        self._bar.advance(self._task, images)
        task = self._bar.tasks[0]
        if task.elapsed:  # over all of them: those of a batch come at once
            self._bar.update(self._task, rate=f"{task.completed / task.elapsed:.1f} images/s")

    def say(self, text: str) -> None:
        self._bar.console.print(for_terminal(text), highlight=False, markup=False, soft_wrap=True)


class TrainingProgress:
    """A bar per run on stderr, with the running loss and the latest validation SRCC."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self.console = Console(stderr=True)
        self.bar = progress.Progress(
            progress.TextColumn("epoch"),
            progress.MofNCompleteColumn(),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[news]}"),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("train", total=None, news="reading images")
        self.latest = ""

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def epoch_started(self, epoch: int, epochs: int) -> None:
        self.bar.update(self.task, total=epochs, completed=epoch)

    def loss(self, running: float) -> None:
        self.bar.update(self.task, news=f"loss {running:.4f} {self.latest}")

    def epoch_finished(self, line: dict[str, Any], *, best: bool) -> None:
        self.latest = f"val SRCC {line['srcc']:.4f}"
        self.bar.advance(self.task)
        self.note(
            f"epoch {line['epoch']:3d}  loss {line['loss']:.4f}  val SRCC {line['srcc']:.4f}  "
            f"PLCC {line['plcc_raw']:.4f}  {line['seconds']:.0f} s{'  best' if best else ''}"
        )

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
