"""`ma-agiqa train`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def train(
    data: Annotated[str, typer.Option(help="Data set, as `ma-agiqa datasets` names it.")],
    root: Annotated[Path, typer.Option(help="Folder the data set lies in.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the model appears in OUT/model.")],
    model: Annotated[str, typer.Option(help="What to train.")] = "compact",
    recipe: Annotated[
        str | None, typer.Option(help="Recipe preset; default: the one named like the model.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split; trains on train, selects on val.")] = "paper",
    target: Annotated[
        str | None, typer.Option(help="Human score; default: the data set's own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and crops.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change one recipe value: key=value.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    resume: Annotated[bool, typer.Option(help="Go on after the last finished epoch.")] = False,
) -> None:
    """Train a model; killed at any moment, it resumes with the same result."""
    from ma_agiqa.errors import UsageError
    from ma_agiqa.training.recipe import RECIPES, with_settings
    from ma_agiqa.training.run import TrainRequest
    from ma_agiqa.training.run import train as run

    name = recipe or model
    if name not in RECIPES:
        raise UsageError(f"no recipe named {name!r}", remedy=f"known: {', '.join(RECIPES)}")
    request = TrainRequest(
        data=data,
        root=root,
        out=out,
        recipe=with_settings(RECIPES[name], settings or []),
        split=split,
        target=target,
        seed=seed,
        device=device,
        precision=precision,
        resume=resume,
    )
    with Progress() as progress:
        directory = run(request, observer=progress)
    typer.echo(directory)


class Progress:
    """A bar per run on stderr, with the running loss and the latest validation SRCC."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        self.console = Console(stderr=True)
        self.bar = Bar(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[news]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("train", total=None, news="reading images")
        self.latest = ""

    def __enter__(self) -> Progress:
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
        self.console.print(
            f"epoch {line['epoch']:3d}  loss {line['loss']:.4f}  val SRCC {line['srcc']:.4f}  "
            f"PLCC {line['plcc_raw']:.4f}  {line['seconds']:.0f} s{'  best' if best else ''}",
            highlight=False,
        )

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False)
