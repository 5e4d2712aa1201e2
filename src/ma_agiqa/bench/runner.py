"""The grid, cell by cell: what is done stays done, what fails is a row, the rest goes on.

A killed benchmark started again takes up the finished cells; a failed cell is tried again. Only
cells whose settings or content changed run anew. A full disk or Ctrl-C ends the run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ma_agiqa import devices
from ma_agiqa.bench import cells
from ma_agiqa.bench.cells import Cell, Result
from ma_agiqa.bench.execute import Bench, execute
from ma_agiqa.bench.grid import Grid
from ma_agiqa.bench.material import Material, gather
from ma_agiqa.errors import MAAGIQAError, OutputError


class BenchObserver(Protocol):
    """Gets news of a benchmark; also that of its trainings, see `training.request.Observer`."""

    def cell(self, number: int, total: int, title: str, *, kept: bool) -> None: ...
    def failed(self, title: str, error: str) -> None: ...
    def epoch_started(self, epoch: int, epochs: int) -> None: ...
    def loss(self, running: float) -> None: ...
    def epoch_finished(self, line: dict[str, Any], *, best: bool) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass(frozen=True, eq=False)
class Outcome:
    """A grid with the results of all its cells, in order."""

    grid: Grid
    materials: Sequence[Material]
    results: Sequence[Result]

    @property
    def failures(self) -> int:
        """How many cells have no result."""
        return sum(result.error is not None for result in self.results)


def run(grid: Grid, out: Path, *, device: str = "auto", observer: BenchObserver) -> Outcome:
    """Run what has no result yet; return all results.

    Raises:
        UsageError, DataError, FeatureError, ModelError: the grid names what is not there, or
            the device cannot be used; nothing was run.
        OutputError: results cannot be written.
    """
    devices.resolve(device)
    materials, digests = gather(grid)
    todo = cells.cells_of(grid, materials, digests)
    bench = Bench(out=out, resamples=grid.resamples, device=device, observer=observer)
    results = []
    for number, cell in enumerate(todo, start=1):
        result = cells.read(out, cell)
        observer.cell(number, len(todo), cell.title, kept=result is not None)
        if result is None:
            result = _run(cell, bench)
            cells.write(out, result)
        if result.error is not None:
            observer.failed(cell.title, result.error)
        results.append(result)
    return Outcome(grid, materials, results)


def _run(cell: Cell, bench: Bench) -> Result:
    started = time.perf_counter()
    try:
        judgements, detail = execute(cell, bench)
    except OutputError:
        raise  # the next cell could not be written either
    except MAAGIQAError as error:
        return Result(cell, (), str(error), time.perf_counter() - started, {})
    except Exception as error:  # a fault of ours or of a library is a row with its name
        told = f"{type(error).__name__}: {error}"
        return Result(cell, (), told, time.perf_counter() - started, {})
    return Result(cell, tuple(judgements), None, time.perf_counter() - started, detail)
