"""The record of one evaluation: which model on which images, how good, how sure, made how.

Nothing is dropped: there is one prediction per image of the part, asserted. Caveats of the
split and warnings of the metrics are part of the record, so that whatever shows a number
can show them too. Drawing is elsewhere: `tables.py` for terminals, `scatter.py` for plots.

Shapes: n images of the evaluated part.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ma_agiqa.data.samples import Samples
from ma_agiqa.data.splits import PROMPT, Split
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.evaluation import metrics
from ma_agiqa.evaluation.bootstrap import RESAMPLES, Interval, bootstrap_all
from ma_agiqa.files import write_atomically
from ma_agiqa.provenance import Environment, environment
from ma_agiqa.text import join_some

PER_IMAGE = ("names", "mos", "pred", "labels")


@dataclass(frozen=True)
class GroupRow:
    """How the images of one group fare; metrics of fewer than 5 images are NaN.

    Attributes:
        value: the group, e.g. a generator's name.
        n: how many images.
        srcc, plcc_raw: within the group.
        mean_mos, mean_pred: their difference shows a model's bias for or against the group.
    """

    value: str
    n: int
    srcc: float
    plcc_raw: float
    mean_mos: float
    mean_pred: float


@dataclass(frozen=True)
class EvaluationReport:
    """One model on one part of one split.

    Attributes:
        model, dataset, target, split, part: what was evaluated on what.
        protocol, caveats: of the split, and warnings of the metrics.
        n: images evaluated; all of the part.
        metrics: by name, each with its interval.
        groups: group -> one row per value, in alphabetical order.
        names, mos, pred: the predictions behind all this, each of length n.
        labels: group -> the value of each image, of length n.
        environment: machine, versions, commit, date.
        command: what reproduces it; "" when called from Python.
    """

    model: str
    dataset: str
    target: str
    split: str
    part: str
    protocol: str
    caveats: tuple[str, ...]
    n: int
    metrics: dict[str, Interval]
    groups: dict[str, tuple[GroupRow, ...]]
    names: tuple[str, ...]
    mos: tuple[float, ...]
    pred: tuple[float, ...]
    labels: dict[str, tuple[str, ...]]
    environment: Environment
    command: str

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data; NaN, which JSON lacks, becomes None.

        What is there for every image stays out: human scores belong to the data set's
        publisher, and a report is to be shared. `write_predictions` writes them.
        """
        data: dict[str, Any] = without_nan(dataclasses.asdict(self))
        return {key: value for key, value in data.items() if key not in PER_IMAGE}

    def write_predictions(self, path: str | Path) -> None:
        """Write one CSV row per image: name, human score, prediction, groups.

        Raises:
            OutputError: the disk is full or the place cannot be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "mos", "pred", *self.labels])
        writer.writerows(zip(self.names, self.mos, self.pred, *self.labels.values(), strict=True))
        write_atomically(path, text.getvalue())

    def to_json(self, path: str | Path) -> None:
        """Write the figures to `path`, whole or not at all.

        Raises:
            OutputError: the disk is full or the place cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(path, text + "\n")


def evaluate_predictions(
    samples: Samples,
    split: Split,
    part: str,
    pred: ArrayLike,
    *,
    model: str,
    target: str | None = None,
    group_by: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    command: str = "",
) -> EvaluationReport:
    """Judge predictions for one part of a split.

    Args:
        samples: the whole data set.
        pred: one finite score per image of the part, in the order of `split.part(part)`;
            shape (n,).
        target: human score to compare with; the data set's default when None.
        group_by: groups to tabulate; all but the prompts, which have few images, when None.
        resamples, seed: of the bootstrap.

    Raises:
        DataError: another number of predictions than images, or predictions not finite.
        UsageError: unknown part, target or group.
    """
    chosen = samples.subset(split.part(part))
    scores = np.asarray(pred, dtype=np.float64)
    _check(scores, chosen)
    target = next(iter(samples.targets)) if target is None else target
    mos = chosen.target(target)
    keys = [key for key in chosen.groups if key != PROMPT] if group_by is None else group_by
    unknown = [key for key in keys if key not in chosen.groups]
    if unknown:
        raise UsageError(f"{samples.dataset} has no groups {unknown}, only {list(chosen.groups)}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", metrics.MetricWarning)
        figures = bootstrap_all(mos, scores, resamples=resamples, seed=seed)
    told = [str(w.message) for w in caught if issubclass(w.category, metrics.MetricWarning)]
    return EvaluationReport(
        model=model,
        dataset=samples.dataset,
        target=target,
        split=split.name,
        part=part,
        protocol=split.protocol,
        caveats=(*split.caveats, *dict.fromkeys(told)),
        n=len(chosen),
        metrics=figures,
        groups={key: _group_rows(chosen.groups[key], mos, scores) for key in keys},
        names=chosen.name,
        mos=tuple(mos.tolist()),
        pred=tuple(scores.tolist()),
        labels={key: chosen.groups[key] for key in keys},
        environment=environment(),
        command=command,
    )


def _check(scores: NDArray[np.float64], chosen: Samples) -> None:
    """Refuse predictions that are not one finite number per record."""
    if scores.shape != (len(chosen),):
        raise DataError(f"predictions of shape {scores.shape} for {len(chosen)} records")
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(chosen)} predictions are NaN or infinite: "
            f"{join_some([chosen.name[i] for i in bad])}"
        )


def _group_rows(
    labels: Sequence[str], mos: NDArray[np.float64], pred: NDArray[np.float64]
) -> tuple[GroupRow, ...]:
    """Return one row per distinct label."""
    column = np.array(labels, dtype=object)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics.MetricWarning)  # NaN in a small group says it
        for value in sorted(set(labels)):
            members = column == value
            pair = mos[members], pred[members]
            rows.append(
                GroupRow(
                    value=value,
                    n=int(members.sum()),
                    srcc=metrics.srcc(*pair),
                    plcc_raw=metrics.plcc_raw(*pair),
                    mean_mos=float(pair[0].mean()),
                    mean_pred=float(pair[1].mean()),
                )
            )
    return tuple(rows)


def without_nan(value: Any) -> Any:
    """Return nested plain data with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
