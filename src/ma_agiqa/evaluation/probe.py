"""The probe: how much of human opinion a straight line finds in stored vectors.

Ridge regression on all vectors of an image, concatenated. The training part fits it, the
validation part chooses its strength alpha, and the chosen one is judged once on the test part.
We choose the alpha of the least squared error on validation: over some hundred images that
changes smoothly with alpha, where SRCC jumps. The line is not fitted again on training and
validation together, so that the number stands beside models which cannot be.

The regression is solved in closed form, for all alphas at once:

    minimise  mean over images of (mos - intercept - z · w)²  +  alpha * |w|²

z are the features, standardised by the training part. The intercept is not penalised. As every
feature has variance one, the mean eigenvalue of the covariance of z is one, and alpha is
measured against that, whatever the number of images or features.

The solution stands in the smaller of two Gram matrices: features x features (primal) where
there are more images than features, images x images (dual) where there are fewer. There is one
right-hand side, so one tridiagonalisation of that matrix from it (Lanczos, every vector kept
orthogonal to all earlier ones) solves the system for every alpha; it stops when the residual of
each is negligible. A full eigendecomposition gives the same predictions (to 2e-9) and takes
several times as long (`benchmarks/probe.py`).

Memory stays small: features keep the dtype they are stored in, blocks of them are standardised
when they are needed. Arithmetic is float64 where that costs seconds; above `DOUBLE_PRODUCTS` the
Gram matrix and its products are float32, whose rounding moves predictions at alpha 1 by less
than 1e-5 of the scores' deviation, at the smallest alpha by less than 1e-2.

Shapes: n images, K questions, D width of a vector or of the features, m = min(n, D) side of the
Gram matrix, S alphas, k Lanczos steps.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh_tridiagonal

from ma_agiqa.data.samples import Samples, require_images
from ma_agiqa.data.splits import Split
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.evaluation import metrics
from ma_agiqa.evaluation.bootstrap import RESAMPLES
from ma_agiqa.evaluation.report import EvaluationReport, evaluate_predictions
from ma_agiqa.features.source import vectors_of
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.text import did_you_mean

Form = Literal["primal", "dual"]

ALPHAS = tuple(float(10.0**half) for half in np.arange(-3.0, 5.01, 0.5))
"""The grid: half decades around one, which is the mean variance of a feature."""

ROWS = 1024  # of a block: 32 MB in float32 at 8192 features
TOLERANCE = 1e-8  # of the residual, relative to the right-hand side
CHECK_EVERY = 10  # Lanczos steps between looks at the residual
DOUBLE_PRODUCTS = 1e11  # of the Gram matrix: 2,000 x 2,000 of 25,000 terms
MAX_STEPS = 2000  # of Lanczos; alphas not solved by then are left out

Floats = NDArray[np.float64]
Matrix: TypeAlias = "NDArray[np.floating]"


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Shift and scale that give features mean zero and variance one over the training part.

    Attributes:
        mean: (D,).
        scale: (D,); 0 for a feature that does not vary, which is thereby left out.
    """

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, features: NDArray[np.generic]) -> Standardisation:
        """Measure features (n, D), in two passes of float64 sums."""
        n = len(features)
        mean = sum(block.sum(axis=0, dtype=np.float64) for block in blocks(features)) / n
        squares = sum(
            np.square(block.astype(np.float64) - mean).sum(axis=0) for block in blocks(features)
        )
        deviation = np.sqrt(squares / n)
        # Below the rounding of float16 a deviation is noise, and dividing by it would make it loud.
        varies = deviation > 1e-6 * np.maximum(1.0, np.abs(mean))
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
        return cls(mean, scale)

    def __call__(self, block: NDArray[np.generic], dtype: type[np.floating]) -> Matrix:
        """Return a block (b, D) standardised."""
        standardised: Matrix = block.astype(dtype)
        standardised -= self.mean.astype(dtype)
        standardised *= self.scale.astype(dtype)
        return standardised


@dataclass(frozen=True, eq=False)
class RidgePath:
    """The regression at every alpha that could be solved.

    Attributes:
        alphas: (S,), ascending.
        weights: (D, S), for standardised features.
        intercept: the mean score of the training part.
        form: which Gram matrix it was solved in.
        steps: Lanczos steps taken.
    """

    standardise: Standardisation
    alphas: tuple[float, ...]
    weights: Matrix
    intercept: float
    form: Form
    steps: int

    def predict(self, features: NDArray[np.generic]) -> Floats:
        """Return the predictions for features (n, D) at every alpha, (n, S)."""
        if features.ndim != 2 or features.shape[1] != len(self.weights):
            raise DataError(
                f"the regression takes features (n, {len(self.weights)}), got {features.shape}"
            )
        kind = self.weights.dtype.type
        products = [self.standardise(block, kind) @ self.weights for block in blocks(features)]
        return np.concatenate(products).astype(np.float64) + self.intercept


def fit_ridge(
    features: NDArray[np.generic],
    mos: ArrayLike,
    *,
    alphas: Sequence[float] = ALPHAS,
    form: Form | None = None,
    dtype: type[np.floating] | None = None,
) -> RidgePath:
    """Fit the regression at every alpha.

    Args:
        features: (n, D), any float dtype, finite.
        mos: human scores, (n,), finite.
        form: which Gram matrix; by shape when None. Both give the same weights.
        dtype: of the arithmetic, float32 or float64; by cost when None.

    Raises:
        DataError: fewer than two images, other lengths, or values that are not finite.
        UsageError: alphas that are not positive.
    """
    scores = np.asarray(mos, dtype=np.float64)
    _check_regression(features, scores, alphas)
    n, width = features.shape
    standardise = Standardisation.of(features)
    intercept = float(scores.mean())
    centred = scores - intercept
    chosen = form or ("primal" if n > width else "dual")
    kind = dtype or (np.float64 if n * width * min(n, width) <= DOUBLE_PRODUCTS else np.float32)
    wanted = np.sort(np.asarray(alphas, dtype=np.float64))
    if chosen == "primal":
        gram, right = _primal(features, centred, standardise, kind)
        weights, steps = solve_shifted(gram, right, wanted)
    else:
        solution, steps = solve_shifted(_dual(features, standardise, kind), centred / n, wanted)
        weights = _across(features, solution, standardise, kind)
    return RidgePath(
        standardise=standardise,
        alphas=tuple(wanted[-weights.shape[1] :].tolist()),
        weights=weights.astype(kind),
        intercept=intercept,
        form=chosen,
        steps=steps,
    )


def solve_shifted(matrix: Matrix, right: Floats, shifts: Floats) -> tuple[Floats, int]:
    """Solve (matrix + shift) x = right for every shift; return x, (m, S), and the steps taken.

    Small shifts take the most steps; those not solved within `MAX_STEPS` are left out, so S
    may be less than the number of shifts. It is at least one.

    Args:
        matrix: symmetric, no eigenvalue below zero, (m, m).
        shifts: positive and ascending.
    """
    norm = float(np.linalg.norm(right))
    if norm == 0:
        return np.zeros((len(right), len(shifts))), 0
    limit = min(len(right), MAX_STEPS)
    basis = np.empty((min(limit, 64), len(right)))
    basis[0] = right / norm
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    while True:
        k = len(diagonal)
        following = (matrix @ basis[k].astype(matrix.dtype)).astype(np.float64)
        diagonal.append(float(basis[k] @ following))
        for _ in range(2):  # once leaves rounding of the size of what it removed
            following -= (basis[: k + 1] @ following) @ basis[: k + 1]
        length = float(np.linalg.norm(following))
        k += 1
        exhausted = k == limit or length <= 1e-12 * max(diagonal)
        if exhausted or k % CHECK_EVERY == 0:
            inner = _inner(diagonal, off_diagonal, shifts)
            solved = np.abs(length * inner[-1]) <= TOLERANCE
            # The Krylov space holds the whole solution when it has no direction left.
            if solved.all() or (exhausted and k == len(right)) or length == 0:
                return norm * (basis[:k].T @ inner), k
            if exhausted:
                keep = max(1, int(solved.sum()))
                return norm * (basis[:k].T @ inner[:, -keep:]), k
        if k == len(basis):
            basis = np.concatenate([basis, np.empty((min(k, limit - k), len(right)))])
        basis[k] = following / length
        off_diagonal.append(length)


def _inner(diagonal: list[float], off_diagonal: list[float], shifts: Floats) -> Floats:
    """Solve (T + shift) f = first unit vector, T tridiagonal (k, k), for every shift; (k, S)."""
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(off_diagonal))
    inner: Floats = vectors @ (vectors[0][:, None] / (values.clip(min=0)[:, None] + shifts))
    return inner


def _primal(
    features: NDArray[np.generic],
    centred: Floats,
    standardise: Standardisation,
    dtype: type[np.floating],
) -> tuple[Matrix, Floats]:
    """Return ZᵀZ / n, (D, D), and Zᵀ y / n, (D,); only the upper tiles are multiplied."""
    n, width = features.shape
    gram = np.zeros((width, width), dtype=dtype)
    right = np.zeros(width)
    start = 0
    for block in blocks(features, rows=2 * ROWS):
        z = standardise(block, dtype)
        right += z.T @ centred[start : start + len(z)].astype(dtype)
        start += len(z)
        z /= dtype(np.sqrt(n))
        for tile in _tiles(width):
            gram[tile, tile.start :] += z[:, tile].T @ z[:, tile.start :]
    for tile in _tiles(width):
        gram[tile.stop :, tile] = gram[tile, tile.stop :].T
    return gram, right / n


def _dual(
    features: NDArray[np.generic], standardise: Standardisation, dtype: type[np.floating]
) -> Matrix:
    """Return Z Zᵀ / n, (n, n)."""
    n, width = features.shape
    gram = np.zeros((n, n), dtype=dtype)
    for columns in _tiles(width):
        part = Standardisation(standardise.mean[columns], standardise.scale[columns])
        z = part(features[:, columns], dtype)
        z /= dtype(np.sqrt(n))
        for tile in _tiles(n):
            gram[tile, tile.start :] += z[tile] @ z[tile.start :].T
    for tile in _tiles(n):
        gram[tile.stop :, tile] = gram[tile, tile.stop :].T
    return gram


def _across(
    features: NDArray[np.generic],
    solution: Floats,
    standardise: Standardisation,
    dtype: type[np.floating],
) -> Floats:
    """Return Zᵀ solution, (D, S)."""
    weights: Floats = np.zeros((features.shape[1], solution.shape[1]))
    start = 0
    for block in blocks(features):
        z = standardise(block, dtype)
        weights += z.T @ solution[start : start + len(z)].astype(dtype)
        start += len(z)
    return weights


def blocks(features: NDArray[np.generic], *, rows: int = ROWS) -> Iterator[NDArray[np.generic]]:
    """Yield features (n, D) a few rows at a time."""
    for start in range(0, len(features), rows):
        yield features[start : start + rows]


def _tiles(size: int) -> Iterator[slice]:
    for start in range(0, size, ROWS):
        yield slice(start, min(start + ROWS, size))


def _check_regression(
    features: NDArray[np.generic], scores: Floats, alphas: Sequence[float]
) -> None:
    if features.ndim != 2 or scores.shape != (len(features),) or len(scores) < 2:
        raise DataError(
            f"a regression needs two images or more with as many scores, got features "
            f"{features.shape} and scores {scores.shape}"
        )
    bad = sum(int((~np.isfinite(block).all(axis=1)).sum()) for block in blocks(features))
    odd = int((~np.isfinite(scores)).sum())
    if bad or odd:
        raise DataError(
            f"features of {bad} and scores of {odd} of {len(scores)} images are NaN or infinite"
        )
    if not len(alphas) or not all(np.isfinite(s) and s > 0 for s in alphas):
        raise UsageError(f"strengths must be positive numbers, got {list(alphas)}")


@dataclass(frozen=True)
class Trial:
    """The result of one alpha on the validation part; `rmse` is without any fit."""

    alpha: float
    rmse: float
    srcc: float


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted probe.

    Attributes:
        path: the regression at every alpha.
        chosen: which column of it.
        trials: what each alpha gave on validation, ascending.
        vectors: names of the questions whose vectors it takes, in order.
        encoder: identity of the encoder that made them.
        target: the human score it predicts.
        train, val: how many images fitted it and chose its alpha.
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
    def alpha(self) -> float:
        """The chosen alpha."""
        return self.path.alphas[self.chosen]

    @property
    def at_edge(self) -> bool:
        """Whether the chosen alpha is an end of the grid, so that another may be better."""
        return self.chosen in (0, len(self.path.alphas) - 1)

    def predict(self, features: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return the score of each image from features (n, K * D)."""
        return self.path.predict(features)[:, self.chosen]

    def to_dict(self) -> dict[str, Any]:
        """Return what was fitted, without its weights, as plain data."""
        return {
            "strength": self.alpha,
            "selected_by": "least squared error on validation",
            "at_edge_of_grid": self.at_edge,
            "trials": [
                {"strength": trial.alpha, "rmse": trial.rmse, "srcc": trial.srcc}
                for trial in self.trials
            ],
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
        edge = f"the chosen strength {fitted.alpha:g} is an end of the grid"
        report = dataclasses.replace(report, caveats=(*report.caveats, edge))
    return fitted, report


def fit_probe(
    store: FeatureStore,
    samples: Samples,
    split: Split,
    *,
    target: str | None = None,
    vectors: Sequence[str] | None = None,
    alphas: Sequence[float] = ALPHAS,
) -> Probe:
    """Fit on the training part, choose the alpha on the validation part; see `probe`."""
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
    path = fit_ridge(features_of(store, samples.subset(train), vectors), mos[train], alphas=alphas)
    predictions = path.predict(features_of(store, samples.subset(val), vectors))
    trials = tuple(
        _trial(alpha, mos[val], column)
        for alpha, column in zip(path.alphas, predictions.T, strict=True)
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


def _trial(alpha: float, mos: NDArray[np.float64], pred: NDArray[np.float64]) -> Trial:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics.MetricWarning)  # NaN in the table says it
        rank = metrics.srcc(mos, pred)
    return Trial(alpha, float(np.sqrt(np.mean(np.square(mos - pred)))), rank)
