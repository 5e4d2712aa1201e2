"""What is judged, and against whom: a model, or scores that another program gave.

    evaluate          a model on one part of one split
    evaluate_scores   a table of `name` and `score` in place of a model

An image that cannot be scored stops the evaluation with its name, because a figure on the rest
would be a figure on another data set. Training images of the model among those judged are counted
and named.

In a table of scores, a row belongs to the image of that name; the order does not matter and
further rows are ignored. Nothing is reversed automatically: where lower is better the caller says
so, the scores are negated, and the report says that they were. Where the caller does not, and the
relation is falling, the report says that too.

Shapes: n images of the evaluated part.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ma_agiqa.config import ModelConfig
from ma_agiqa.data import datasets, splits
from ma_agiqa.data.samples import (
    Samples,
    TableColumns,
    number_column,
    read_table,
    require_images,
    text_column,
)
from ma_agiqa.data.splits import PROMPT, Rows, Split
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.evaluation.bootstrap import RESAMPLES
from ma_agiqa.evaluation.conformal import covered
from ma_agiqa.evaluation.report import EvaluationReport, evaluate_predictions
from ma_agiqa.files import write_atomically
from ma_agiqa.text import join_some

if TYPE_CHECKING:
    from ma_agiqa.scorer import Scorer

NAME, SCORE = "name", "score"
FALLING = "the relation is falling; if lower is better in these scores, say so"


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
    target = target or _target(scorer, samples)
    interval, mos = scorer.config.interval, on_scale_of(scorer.config, judged, target)
    pred = predict(scorer, judged)
    report = evaluate_predictions(
        samples,
        chosen,
        part,
        pred,
        target=target,
        model=scorer.name,
        resamples=resamples,
        command=command,
        interval=interval,
        held=None if interval is None or mos is None else covered(mos, pred, interval),
    )
    seen = seen_in_training(scorer.config, samples, rows, root)
    return dataclasses.replace(report, caveats=(*report.caveats, *seen))


def _target(scorer: Scorer, samples: Samples) -> str:
    trained = scorer.config.trained_on
    if trained is not None and trained.target in samples.targets:
        return trained.target
    return next(iter(samples.targets))


def on_scale_of(config: ModelConfig, samples: Samples, target: str) -> NDArray[np.float64] | None:
    """Return human scores on the scale of a model that learned from such, (n,); None of others."""
    mos: NDArray[np.float64] = samples.target(target)
    what = samples.dataset, target
    trained, record = config.trained_on, config.training
    if trained is not None and what == (trained.dataset, trained.target):
        if "started_from" not in record:
            return mos
        way = record["started_from"]["scores"]
        return float(way["slope"]) * mos + float(way["offset"])
    for one in record.get("data_sets", ())[1:]:
        if what == (one["name"], one["target"]) and (way := one["from_score"]) is not None:
            return (mos - float(way["offset"])) / float(way["slope"])
    return None


def predict(scorer: Scorer, samples: Samples) -> np.ndarray:
    """Return the score of each image, (n,).

    Raises:
        DataError: an image cannot be scored; all such are counted and the first few named.
    """
    words = dict(zip(samples.path, samples.groups.get(PROMPT, ()), strict=False))
    scores = list(scorer.score(samples.path, prompt=words.get))
    failed = [f"{score.path}: {score.error}" for score in scores if score.error is not None]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(samples)} images could not be scored: {join_some(failed)}",
            remedy="repair them; a figure on the rest would not be comparable",
        )
    return np.array([float(score) for score in scores])


def seen_in_training(
    config: ModelConfig, samples: Samples, rows: Rows, root: Path
) -> tuple[str, ...]:
    """Say how many of the judged images the model was trained or selected on.

    That is on any of its data sets, or by the model that it started from.
    """
    trained, record = config.trained_on, config.training
    own = [] if trained is None else [(trained.dataset, trained.split)]
    own += [(one["name"], one["split"]) for one in record.get("data_sets", ())]
    if before := record.get("started_from", {}).get("trained_on"):
        own.append(tuple(before.rsplit(", ", 1)))
    notes = []
    for split in sorted({split for dataset, split in own if dataset == samples.dataset}):
        try:
            parts = splits.resolve(split, samples, root)
        except (UsageError, DataError):
            notes.append(f"the model's own split {split!r} cannot be checked for overlap here")
            continue
        if seen := len(np.intersect1d(rows, np.concatenate([parts.train, parts.val]))):
            notes.append(
                f"{seen} of these {len(rows)} images were in the model's own training or "
                f"validation part (split {split!r}): not a measure of its quality"
            )
    return tuple(notes)


# Judging scores of another program


def read_scores(path: str | Path) -> dict[str, float]:
    """Return name -> score.

    Raises:
        DataError: no such file or column, a score that is no finite number, a name twice.
    """
    table = read_table(path)
    names = text_column(table, NAME, source=path, allow_empty=False)
    scores = number_column(table, SCORE, names=names, source=path)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"names that occur more than once: {join_some(repeated)}", path=path)
    return dict(zip(names, scores.tolist(), strict=True))


def write_scores(path: str | Path, scores: Mapping[str, float]) -> None:
    """Write a CSV that `read_scores` reads, every digit of it.

    Raises:
        OutputError: the disk is full or the place cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([NAME, SCORE])
    writer.writerows((name, repr(score)) for name, score in scores.items())
    write_atomically(path, text.getvalue())


def scores_of(
    scores: Mapping[str, float], samples: Samples, *, source: str | Path
) -> NDArray[np.float64]:
    """Return the score of each image, (n,).

    Raises:
        DataError: images without a score; they are counted and the first few named.
    """
    absent = [name for name in samples.name if name not in scores]
    if absent:
        raise DataError(
            f"has no score for {len(absent)} of {len(samples)} images of {samples.dataset}: "
            f"{join_some(absent)}",
            path=source,
            remedy="names must be those of the data set; leave no image out",
        )
    return np.array([scores[name] for name in samples.name], dtype=np.float64)


def evaluate_scores(
    path: str | Path,
    samples: Samples,
    split: Split,
    part: str = "test",
    *,
    lower_is_better: bool = False,
    target: str | None = None,
    model: str | None = None,
    resamples: int = RESAMPLES,
    command: str = "",
) -> EvaluationReport:
    """Judge the scores in a file on one part of a split.

    Raises:
        DataError: the file is damaged, or images have no score in it.
        UsageError: unknown part or target.
    """
    judged = samples.subset(split.part(part))
    scores = scores_of(read_scores(path), judged, source=path)
    report = evaluate_predictions(
        samples,
        split,
        part,
        -scores if lower_is_better else scores,
        target=target,
        model=model or Path(path).stem,
        resamples=resamples,
        command=command,
    )
    return with_direction(report, negated=lower_is_better)


def with_direction(report: EvaluationReport, *, negated: bool) -> EvaluationReport:
    """Return the report with a note about the direction of the scores where it needs one."""
    notes = ["lower is better in these scores: they were negated"] if negated else []
    high = report.metrics["srcc"].high
    if math.isfinite(high) and high < 0:
        notes.append(FALLING if not negated else "negated, and yet the relation is falling")
    return dataclasses.replace(report, caveats=(*report.caveats, *notes))
