"""Scores that another program gave, judged as our own: a table of `name` and `score`.

A row belongs to the image of that name; the order does not matter and further rows are of no
concern. Nothing is turned around on its own: where lower is better the caller says so, the
scores are then negated, and the report says that they were. Where the caller does not, and the
relation is falling, the report says that too.

Shapes: n images.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ma_agiqa.data.samples import Samples, number_column, read_table, text_column
from ma_agiqa.data.splits import Split
from ma_agiqa.errors import DataError
from ma_agiqa.evaluation.bootstrap import RESAMPLES
from ma_agiqa.evaluation.report import EvaluationReport, evaluate_predictions
from ma_agiqa.files import write_atomically
from ma_agiqa.text import join_some

NAME, SCORE = "name", "score"
FALLING = "the relation is falling; if lower is better in these scores, say so"


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
    """Return the report with what its reader must know about the direction of the scores."""
    told = ["lower is better in these scores: they were negated"] if negated else []
    high = report.metrics["srcc"].high
    if math.isfinite(high) and high < 0:
        told.append(FALLING if not negated else "negated, and yet the relation is falling")
    return dataclasses.replace(report, caveats=(*report.caveats, *told))
