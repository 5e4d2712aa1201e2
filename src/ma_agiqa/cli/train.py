"""`ma-agiqa train`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ma_agiqa.allocator import keep_freed_memory
from ma_agiqa.cli import options
from ma_agiqa.cli.progress import TrainingProgress
from ma_agiqa.text import did_you_mean

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
Seed = Annotated[int, typer.Option(help="Of weights, order and crops.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Change one recipe value: key=value.")
]
Precision = Annotated[
    str,
    typer.Option(
        help="float32 or bfloat16; auto takes bfloat16 where the hardware multiplies it, but for "
        "the recipe paper."
    ),
]
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
    str | None,
    typer.Option(
        "--backbone",
        help="Start of a new network's trunk: published (ImageNet, the default), random, or for a "
        "vision transformer a safetensors file.",
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
    target: options.DatasetTarget = None,
    seed: Seed = 0,
    settings: Settings = None,
    device: options.Device = "auto",
    precision: Precision = "auto",
    resume: Resume = False,
    backbone: Backbone = None,
    store: Store = None,
    network: Network = None,
    also: Also = None,
    image_column: options.ImageColumn = "image",
    score_column: options.ScoreColumn = "score",
    prompt_column: options.PromptColumn = None,
) -> None:
    """Train a model; killed at any moment, it resumes with the same result."""
    keep_freed_memory()
    from ma_agiqa.data.samples import TableColumns
    from ma_agiqa.errors import UsageError
    from ma_agiqa.training.data import Source
    from ma_agiqa.training.network import find_start
    from ma_agiqa.training.recipe import RECIPES, with_settings
    from ma_agiqa.training.run import TrainRequest, is_first
    from ma_agiqa.training.run import train as run

    name = recipe or find_start(model).recipe
    if name not in RECIPES:
        raise UsageError(f"no recipe named {name!r}{did_you_mean(name, RECIPES, 'known are')}")
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
    with TrainingProgress() as progress:
        directory = run(request, observer=progress)
    if is_first():
        typer.echo(directory)
