"""`ma-agiqa train`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ma_agiqa.cli import options
from ma_agiqa.text import hint

Out = Annotated[Path, typer.Option(help="Folder of the run; the model appears in OUT/model.")]
Architecture = Annotated[
    str,
    typer.Option(
        "--model",
        help="What to train: compact, visual or paper anew; or a model directory "
        "or Hub id to fine-tune.",
    ),
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="Recipe preset; else the one named like the model.")
]
SplitName = Annotated[
    str,
    typer.Option(
        "--split",
        help="paper, official, random-SEED, random-8-2-SEED, prompt-SEED, ipce-01 to ipce-10, "
        "unseen-GENERATOR, or training/SPLIT of the official training set; train trains, val "
        "selects.",
    ),
]
Target = Annotated[
    str | None, typer.Option("--target", help="Human score; else the data set's own.")
]
Seed = Annotated[int, typer.Option(help="Of weights, order and crops.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Change one recipe value: key=value.")
]
Precision = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on after the last finished epoch.")]

Also = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        help="Another data set to learn from at the same time: NAME=ROOT or TABLE=ROOT, with "
        "@SPLIT where it is not that of --data; may be repeated. The model keeps the scale of "
        "--data.",
    ),
]
Backbone = Annotated[
    str,
    typer.Option(
        "--backbone",
        help="Start of the trunk: published (ImageNet), random, or for a vision transformer a "
        "safetensors file.",
    ),
]
Store = Annotated[
    Path | None,
    typer.Option("--store", help="Feature store from `ma-agiqa extract`; paper needs one."),
]
Network = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        help="Change one argument of the network: key=value, a dot leads inward, the value is "
        "JSON or text. gate=softmax, visual.taps=[5,8].",
    ),
]


def train(
    data: options.Data,
    root: options.DataRoot,
    out: Out,
    model: Architecture = "compact",
    recipe: RecipeName = None,
    split: SplitName = "paper",
    target: Target = None,
    seed: Seed = 0,
    settings: Settings = None,
    device: options.Device = "auto",
    precision: Precision = "auto",
    resume: Resume = False,
    backbone: Backbone = "published",
    store: Store = None,
    network: Network = None,
    also: Also = None,
    image_column: options.ImageColumn = "image",
    score_column: options.ScoreColumn = "score",
    prompt_column: options.PromptColumn = None,
) -> None:
    """Train a model; killed at any moment, it resumes with the same result."""
    from ma_agiqa.training.allocator import keep_freed_memory

    keep_freed_memory()
    from ma_agiqa.data.samples import TableColumns
    from ma_agiqa.errors import UsageError
    from ma_agiqa.training.recipe import RECIPES, with_settings
    from ma_agiqa.training.request import Source, TrainRequest
    from ma_agiqa.training.run import is_first
    from ma_agiqa.training.run import train as run
    from ma_agiqa.training.starts import find

    name = recipe or find(model).recipe
    if name not in RECIPES:
        raise UsageError(f"no recipe named {name!r}{hint(name, RECIPES, 'known are')}")
    request = TrainRequest(
        data=data,
        root=root,
        out=out,
        recipe=with_settings(RECIPES[name], settings or []),
        model=model,
        backbone=backbone,
        store=store,
        network=tuple(network or ()),
        split=split,
        target=target,
        seed=seed,
        device=device,
        precision=precision,
        resume=resume,
        columns=TableColumns(image_column, score_column, prompt_column),
        also=tuple(Source.parse(text, split=split) for text in also or ()),
    )
    with Progress() as progress:
        directory = run(request, observer=progress)
    if is_first():
        typer.echo(directory)


class Progress:
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
