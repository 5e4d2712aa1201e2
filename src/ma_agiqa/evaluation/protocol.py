"""A model judged on one part of one split: every image, no choice left to the caller.

Nothing is dropped, shuffled or skipped: an image that cannot be scored stops the evaluation
with its name, because a figure on the rest would be a figure on another data set. Training
images of the model among those judged are counted and named in the report.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from ma_agiqa.config import ModelConfig
from ma_agiqa.data import datasets, splits
from ma_agiqa.data.samples import Samples, TableColumns, require_images
from ma_agiqa.data.splits import Rows
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.evaluation.bootstrap import RESAMPLES
from ma_agiqa.evaluation.report import EvaluationReport, evaluate_predictions
from ma_agiqa.inference import Scorer
from ma_agiqa.text import join_some


def evaluate(
    scorer: Scorer,
    *,
    data: str,
    root: Path,
    split: str,
    target: str | None = None,
    columns: TableColumns | None = None,
    resamples: int = RESAMPLES,
    command: str = "",
) -> EvaluationReport:
    """Score the images of `split` (`NAME:PART`) and compare with people.

    Args:
        target: which human score; None takes the one the model was trained on where the
            data set has it, else the data set's own.
        columns: of a table given as `data`.
        resamples: bootstrap resamples of each interval.
        command: what was run; stands in the report.

    Raises:
        UsageError: unknown data set, split, part or target.
        DataError: images are missing or cannot be scored.
    """
    name, part = splits.parse(split, default_part="test")
    samples = datasets.load(data, root, columns)
    chosen = splits.resolve(name, samples, root)
    rows = chosen.part(part)
    judged = samples.subset(rows)
    require_images(judged)
    report = evaluate_predictions(
        samples,
        chosen,
        part,
        predict(scorer, judged),
        target=target or _target(scorer, samples),
        model=scorer.name,
        resamples=resamples,
        command=command,
    )
    seen = seen_in_training(scorer.config, samples, rows, root)
    return dataclasses.replace(report, caveats=(*report.caveats, *seen))


def _target(scorer: Scorer, samples: Samples) -> str:
    trained = scorer.config.trained_on
    if trained is not None and trained.target in samples.targets:
        return trained.target
    return next(iter(samples.targets))


def predict(scorer: Scorer, samples: Samples) -> np.ndarray:
    """Return the score of each image, (n,).

    Raises:
        DataError: an image cannot be scored; all such are counted and the first few named.
    """
    words = dict(zip(samples.path, samples.groups.get(splits.PROMPT, ()), strict=False))
    scores = list(scorer.score(samples.path, prompt=words.get))
    failed = [f"{score.path}: {score.error}" for score in scores if score.error is not None]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(samples)} images could not be scored: {join_some(failed)}",
            remedy="mend them; a figure on the rest would not be comparable",
        )
    return np.array([float(score) for score in scores])


def seen_in_training(
    config: ModelConfig, samples: Samples, rows: Rows, root: Path
) -> tuple[str, ...]:
    """Say how many of the judged images the model was trained or selected on."""
    trained = config.trained_on
    if trained is None or trained.dataset != samples.dataset:
        return ()
    try:
        own = splits.resolve(trained.split, samples, root)
    except (UsageError, DataError):
        return (f"the model's own split {trained.split!r} cannot be checked for overlap here",)
    seen = len(np.intersect1d(rows, np.concatenate([own.train, own.val])))
    if not seen:
        return ()
    return (
        f"{seen} of these {len(rows)} images were in the model's own training or validation "
        f"part (split {trained.split!r}): not a measure of its quality",
    )
