"""What several commands share: options that read the same everywhere, and exit statuses."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

OK = 0
SOME_FAILED = 1
"""Some inputs failed, or a check found problems; the results name each."""
USAGE = 2
"""The request could not be carried out: wrong option, model, data set or output."""
THRESHOLD_MISSED = 3
INTERRUPTED = 130
"""Ctrl-C: 128 + SIGINT, as a shell reports it."""
BROKEN_PIPE = 141
"""The reader of stdout went away: 128 + SIGPIPE."""

Model = Annotated[
    str, typer.Option("--model", help="Name from `ma-agiqa models`, a model directory, a Hub id.")
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Commit, tag or branch of a Hub id.")
]
Device = Annotated[
    str, typer.Option("--device", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps.")
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Most images per forward pass; changes no score."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Threads that decode images.")
]
Store = Annotated[
    Path | None,
    typer.Option("--store", help="Feature store, for a model that takes semantic features."),
]
Lmm = Annotated[
    str | None,
    typer.Option(
        "--lmm", help="Or the LMM that computes them: mplug-owl2, a checkpoint directory, a Hub id."
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="Of the LMM: fp16, bf16 or fp32; else as in the training."),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        "--prompt", help="Words that generated the images, for questions that quote {prompt}."
    ),
]
IgnoreProfiles = Annotated[
    bool,
    typer.Option(
        "--ignore-profiles",
        help="Take colours as stored; else an image with a colour profile is converted to sRGB.",
    ),
]
Isolate = Annotated[
    bool,
    typer.Option(
        "--isolate",
        help="Decode in child processes, under limits of memory and time: for files from "
        "strangers. An image that makes its decoder crash or spin is one failed row.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]

Data = Annotated[
    str,
    typer.Option("--data", help="Name from `ma-agiqa datasets`, or a CSV, Parquet or Excel table."),
]
DataRoot = Annotated[
    Path, typer.Option("--root", help="Folder the data set lies in; image paths start there.")
]
ImageColumn = Annotated[
    str, typer.Option("--image-column", help="Of a table: where the image's path stands.")
]
ScoreColumn = Annotated[
    str, typer.Option("--score-column", help="Of a table: where the human score stands.")
]
PromptColumn = Annotated[
    str | None, typer.Option("--prompt-column", help="Of a table: the text behind the image.")
]

DatasetTarget = Annotated[
    str | None, typer.Option("--target", help="Human score; else the data set's own.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]
Predictions = Annotated[
    Path | None, typer.Option(help="Write name, human score and prediction of each image as CSV.")
]
Resamples = Annotated[int, typer.Option(min=100, help="Bootstrap resamples of the intervals.")]


class Engine(str, Enum):
    """Where workers run."""

    here = "here"
    ray = "ray"


EngineOption = Annotated[
    Engine, typer.Option("--engine", help="This process, or actors of Ray Data.")
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Of a Ray cluster; else Ray starts on this machine."),
]
RayWorkers = Annotated[
    int | None, typer.Option("--ray-workers", min=1, help="Most actors of --engine ray.")
]
Gpus = Annotated[
    float,
    typer.Option(
        "--gpus", min=0, help="GPUs of each actor: 1, a part such as 0.5, or 0 for a core."
    ),
]


def own_command() -> str:
    """Return the command line as it was given, for the record beside results."""
    return shlex.join(["ma-agiqa", *sys.argv[1:]])
