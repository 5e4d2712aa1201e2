"""Ridge regression in closed form, for all strengths at once.

    minimise  mean over images of (mos - intercept - z · w)²  +  strength * |w|²

z are the features, standardised by the training part. The intercept is not penalised. As every
feature has variance one, the mean eigenvalue of the covariance of z is one, and a strength is
measured against that, whatever the number of images or features.

The solution stands in the smaller of two Gram matrices: features x features (primal) where
there are more images than features, images x images (dual) where there are fewer. There is one
right-hand side, so one tridiagonalisation of that matrix from it (Lanczos, every vector kept
orthogonal to all earlier ones) solves the system for every strength; it is stopped when the
residual of each is negligible. A full eigendecomposition gives the same for much more work.

Kept small: features stay in the dtype they are stored in, blocks of them are standardised as
they are needed. Arithmetic is float64 where that costs seconds; above `DOUBLE_PRODUCTS` the
Gram matrix and its products are float32, whose rounding moves predictions at strength 1 by
less than 1e-5 of the scores' spread, at the smallest by less than 1e-2.
What this file does not do: choose a strength (`probe.py`).

Shapes: n images, D features, m = min(n, D) side of the Gram matrix, S strengths, k steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh_tridiagonal

from ma_agiqa.errors import DataError, UsageError

Form = Literal["primal", "dual"]

STRENGTHS = tuple(float(10.0**half) for half in np.arange(-3.0, 5.01, 0.5))
"""The grid: half decades around one, which is the mean variance of a feature."""

ROWS = 1024  # of a block: 32 MB in float32 at 8192 features
TOLERANCE = 1e-8  # of the residual, relative to the right-hand side
CHECK_EVERY = 10  # Lanczos steps between looks at the residual
DOUBLE_PRODUCTS = 1e11  # of the Gram matrix: 2,000 x 2,000 of 25,000 terms
MAX_STEPS = 2000  # of Lanczos; strengths not solved by then are left out

Floats = NDArray[np.float64]
Matrix: TypeAlias = "NDArray[np.floating]"


@dataclass(frozen=True, eq=False)
class Standardisation:
    """What takes features to mean zero and variance one over the training part.

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
    """The regression at every strength that could be solved.

    Attributes:
        strengths: (S,), ascending.
        weights: (D, S), for standardised features.
        intercept: the mean score of the training part.
        form: which Gram matrix it was solved in.
        steps: Lanczos steps taken.
    """

    standardise: Standardisation
    strengths: tuple[float, ...]
    weights: Matrix
    intercept: float
    form: Form
    steps: int

    def predict(self, features: NDArray[np.generic]) -> Floats:
        """Return the predictions for features (n, D) at every strength, (n, S)."""
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
    strengths: Sequence[float] = STRENGTHS,
    form: Form | None = None,
    dtype: type[np.floating] | None = None,
) -> RidgePath:
    """Fit the regression at every strength.

    Args:
        features: (n, D), any float dtype, finite.
        mos: human scores, (n,), finite.
        form: which Gram matrix; by shape when None. Both give the same weights.
        dtype: of the arithmetic, float32 or float64; by cost when None.

    Raises:
        DataError: fewer than two images, other lengths, or values that are not finite.
        UsageError: strengths that are not positive.
    """
    scores = np.asarray(mos, dtype=np.float64)
    _check(features, scores, strengths)
    n, width = features.shape
    standardise = Standardisation.of(features)
    intercept = float(scores.mean())
    centred = scores - intercept
    chosen = form or ("primal" if n > width else "dual")
    kind = dtype or (np.float64 if n * width * min(n, width) <= DOUBLE_PRODUCTS else np.float32)
    wanted = np.sort(np.asarray(strengths, dtype=np.float64))
    if chosen == "primal":
        gram, right = _primal(features, centred, standardise, kind)
        weights, steps = solve_shifted(gram, right, wanted)
    else:
        solution, steps = solve_shifted(_dual(features, standardise, kind), centred / n, wanted)
        weights = _across(features, solution, standardise, kind)
    return RidgePath(
        standardise=standardise,
        strengths=tuple(wanted[-weights.shape[1] :].tolist()),
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
    beside: list[float] = []
    while True:
        k = len(diagonal)
        ahead = (matrix @ basis[k].astype(matrix.dtype)).astype(np.float64)
        diagonal.append(float(basis[k] @ ahead))
        for _ in range(2):  # once leaves rounding of the size of what it removed
            ahead -= (basis[: k + 1] @ ahead) @ basis[: k + 1]
        length = float(np.linalg.norm(ahead))
        k += 1
        exhausted = k == limit or length <= 1e-12 * max(diagonal)
        if exhausted or k % CHECK_EVERY == 0:
            inner = _inner(diagonal, beside, shifts)
            solved = np.abs(length * inner[-1]) <= TOLERANCE
            # The Krylov space holds the whole solution when it has no direction left.
            if solved.all() or (exhausted and k == len(right)) or length == 0:
                return norm * (basis[:k].T @ inner), k
            if exhausted:
                keep = max(1, int(solved.sum()))
                return norm * (basis[:k].T @ inner[:, -keep:]), k
        if k == len(basis):
            basis = np.concatenate([basis, np.empty((min(k, limit - k), len(right)))])
        basis[k] = ahead / length
        beside.append(length)


def _inner(diagonal: list[float], beside: list[float], shifts: Floats) -> Floats:
    """Solve (T + shift) f = first unit vector, T tridiagonal (k, k), for every shift; (k, S)."""
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside))
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


def _check(features: NDArray[np.generic], scores: Floats, strengths: Sequence[float]) -> None:
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
    if not len(strengths) or not all(np.isfinite(s) and s > 0 for s in strengths):
        raise UsageError(f"strengths must be positive numbers, got {list(strengths)}")
