"""The probe: how much of human opinion a straight line finds in stored vectors.

Ridge regression on all vectors of an image, concatenated (`ridge.py`). The training part fits
it, the validation part chooses its strength, and the chosen one is judged once on the test
part. Chosen is the strength of the least squared error on validation: over some hundred images
that changes smoothly with the strength, where SRCC jumps. The line is not fitted again on
training and validation together, so that the number stands beside models which cannot be.

What this file does not do: extract vectors (`features/extract.py`).

Shapes: n images, K questions, D width of a vector, S strengths.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ma_agiqa.data.samples import Samples, require_images
from ma_agiqa.data.splits import Split
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.evaluation import metrics
from ma_agiqa.evaluation.bootstrap import RESAMPLES
from ma_agiqa.evaluation.report import EvaluationReport, evaluate_predictions
from ma_agiqa.evaluation.ridge import STRENGTHS, RidgePath, fit_ridge
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.text import did_you_mean
from ma_agiqa.training.semantics import vectors_of


@dataclass(frozen=True)
class Trial:
    """One strength on the validation part; `rmse` is of the predictions as they are."""

    strength: float
    rmse: float
    srcc: float


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted probe.

    Attributes:
        path: the regression at every strength.
        chosen: which column of it.
        trials: what each strength gave on validation, ascending.
        vectors: names of the questions whose vectors it takes, in order.
        encoder: identity of the encoder that made them.
        target: the human score it predicts.
        train, val: how many images fitted it and chose its strength.
    """

    path: RidgePath
    chosen: int
    trials: tuple[Trial, ...]
    vectors: tuple[str, ...]
    encoder: dict[str, Any]
    target: str
    train: int
    val: int

    @property
    def strength(self) -> float:
        """The chosen one."""
        return self.path.strengths[self.chosen]

    @property
    def at_edge(self) -> bool:
        """Whether the chosen strength is an end of the grid, so that another may be better."""
        return self.chosen in (0, len(self.path.strengths) - 1)

    def predict(self, features: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return the score of each image from features (n, K * D)."""
        return self.path.predict(features)[:, self.chosen]

    def to_dict(self) -> dict[str, Any]:
        """Return what was fitted, without its weights, as plain data."""
        return {
            "strength": self.strength,
            "selected_by": "least squared error on validation",
            "at_edge_of_grid": self.at_edge,
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
            "form": self.path.form,
            "steps": self.path.steps,
            "features": len(self.path.weights),
            "vectors": list(self.vectors),
            "encoder": self.encoder,
            "train": self.train,
            "val": self.val,
        }


def probe(
    store: FeatureStore,
    samples: Samples,
    split: Split,
    *,
    target: str | None = None,
    vectors: Sequence[str] | None = None,
    model: str | None = None,
    resamples: int = RESAMPLES,
    command: str = "",
) -> tuple[Probe, EvaluationReport]:
    """Fit a probe on a split and judge it on the test part.

    Args:
        target: human score; the data set's default when None.
        vectors: names of the questions whose vectors count; all of the store's when None.
        model: what the report calls it.
        resamples: bootstrap resamples of each interval.

    Raises:
        UsageError: unknown target or vectors.
        DataError: an empty part, missing image files, or nothing to learn.
        FeatureError: images without vectors, or vectors that are not finite.
    """
    fitted = fit_probe(store, samples, split, target=target, vectors=vectors)
    test = samples.subset(split.part("test"))
    report = evaluate_predictions(
        samples,
        split,
        "test",
        fitted.predict(features_of(store, test, vectors)),
        target=fitted.target,
        model=model or f"probe of {store.path.name}",
        resamples=resamples,
        command=command,
    )
    if fitted.at_edge:
        edge = f"the chosen strength {fitted.strength:g} is an end of the grid"
        report = dataclasses.replace(report, caveats=(*report.caveats, edge))
    return fitted, report


def fit_probe(
    store: FeatureStore,
    samples: Samples,
    split: Split,
    *,
    target: str | None = None,
    vectors: Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """Fit on the training part, choose the strength on the validation part; see `probe`."""
    target = next(iter(samples.targets)) if target is None else target
    mos = samples.target(target)
    train, val = split.part("train"), split.part("val")
    if len(val) < metrics.MIN_PAIRS:
        raise DataError(
            f"{len(val)} validation images cannot choose a strength, {metrics.MIN_PAIRS} are "
            "the least",
            path=samples.dataset,
            remedy="use more images, or another split",
        )
    if not np.ptp(mos[train]) > 0:
        raise DataError("all training images have the same score: there is nothing to learn")
    path = fit_ridge(
        features_of(store, samples.subset(train), vectors), mos[train], strengths=strengths
    )
    predictions = path.predict(features_of(store, samples.subset(val), vectors))
    trials = tuple(
        _trial(strength, mos[val], column)
        for strength, column in zip(path.strengths, predictions.T, strict=True)
    )
    return Probe(
        path=path,
        chosen=int(np.argmin([trial.rmse for trial in trials])),
        trials=trials,
        vectors=_names(store, vectors),
        encoder=dict(store.header.encoder),
        target=target,
        train=len(train),
        val=len(val),
    )


def features_of(
    store: FeatureStore, samples: Samples, vectors: Sequence[str] | None = None
) -> NDArray[np.float16]:
    """Return the stored vectors of each image, concatenated, (n, K * D).

    Args:
        vectors: names of questions, in the order wanted; all of the store's when None.

    Raises:
        UsageError: a name the store does not have.
        DataError: image files are missing.
        FeatureError: images without vectors, or vectors that are not finite; both counted.
    """
    names = _names(store, vectors)
    own = [question.name for question in store.header.questions]
    require_images(samples)
    stored = vectors_of(store, samples)
    assert stored is not None
    wanted = stored if names == tuple(own) else stored[:, [own.index(name) for name in names]]
    features: NDArray[np.float16] = wanted.flatten(1).numpy()
    return features


def _names(store: FeatureStore, vectors: Sequence[str] | None) -> tuple[str, ...]:
    own = [question.name for question in store.header.questions]
    names = tuple(own if vectors is None else vectors)
    for name in names:
        if name not in own:
            known = did_you_mean(name, own, "it has")
            raise UsageError(f"{store.path} has no vectors named {name!r}{known}")
    if len(set(names)) < len(names) or not names:
        raise UsageError(f"vectors must be named once each, got {', '.join(names) or 'none'}")
    return names


def _trial(strength: float, mos: NDArray[np.float64], pred: NDArray[np.float64]) -> Trial:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics.MetricWarning)  # NaN in the table says it
        rank = metrics.srcc(mos, pred)
    return Trial(strength, float(np.sqrt(np.mean(np.square(mos - pred)))), rank)
