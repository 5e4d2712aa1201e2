"""Fit the compact model: no steps over the images, one system of linear equations.

Each training picture is described once, and with it damaged copies of it, whose target is the
picture's own score lowered in proportion to the damage: they teach what people never rated
here (noise, blocking, banding) and keep a damaged picture from passing for an unknown one.

Two things are learned. How much each group of statistics counts, and how noisy the scores
are, by descending the leave-one-out error of the undamaged pictures, which kernel regression
gives in closed form (Rasmussen and Williams 2006, section 5.4.2). Then the dual weights of
all pictures and copies, exactly.

Shapes: n pictures, c damaged copies each, D statistics, R coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ma_agiqa.errors import UsageError
from ma_agiqa.experts.compact import CompactExpert
from ma_agiqa.experts.kernel import group_scale, limit, matern, squared_distances
from ma_agiqa.experts.statistics import GROUPS

_TAIL = 0.001  # share of pictures at each end that does not decide mean and deviation


@dataclass(frozen=True)
class ClosedForm:
    """How to fit the compact model.

    Attributes:
        copies: damaged copies of each training picture.
        fall: share of its height above the lowest score that a picture loses when damaged
            with full severity.
        doubt: how many times noisier the target of a damaged copy is than a human score.
        rank: coordinates by which pictures are remembered.
        steps: of the descent that weighs the groups of statistics.
        learning_rate: of that descent, in logarithms of the weights.
    """

    copies: int = 3
    fall: float = 0.6
    doubt: float = 4.0
    rank: int = 256
    steps: int = 40
    learning_rate: float = 0.15

    def __post_init__(self) -> None:
        for name in ("rank", "learning_rate", "doubt"):
            if getattr(self, name) <= 0:
                raise UsageError(f"recipe: {name} must be positive, got {getattr(self, name)}")
        if min(self.copies, self.steps) < 0 or not 0 <= self.fall <= 1:
            raise UsageError("recipe: copies and steps must not be negative, fall in [0, 1]")


def fit(
    statistics: Tensor,
    severity: Tensor,
    scores: NDArray[np.float64],
    recipe: ClosedForm,
    *,
    low: float,
) -> tuple[CompactExpert, float]:
    """Fit to pictures and their damaged copies.

    Returns:
        The expert in eval mode, and the mean squared error with which each undamaged picture
        is predicted from the others alone (weights of the groups were chosen by it).

    Args:
        statistics: (n, 1 + c, D), the undamaged picture first.
        severity: of the copies, (n, c), in (0, 1].
        scores: human scores (n,).
        low: lowest score of the scale, which damage leads towards.
    """
    n, views, _ = statistics.shape
    target = torch.from_numpy(scores)
    mean, scale = _standard(statistics.flatten(0, 1))
    limited = limit(statistics, mean, scale)
    weights, noise, error = _weigh(limited[:, 0], target, recipe)
    per_statistic = torch.cat(
        [torch.full((size,), float(w)) for w, size in zip(weights, GROUPS.values(), strict=True)]
    )
    weighted = limited.transpose(0, 1).flatten(0, 1) * per_statistic  # pictures, then copies
    rank = min(recipe.rank, n)
    centre, projection = _principal(weighted, rank)
    support = (weighted - centre) @ projection

    lowered = low + (target[:, None] - low) * (1 - recipe.fall * severity.double())
    targets = torch.cat([target, lowered.T.flatten()])
    doubt = torch.full((n * views,), noise * recipe.doubt, dtype=torch.float64)
    doubt[:n] = noise
    constant = target.mean()
    kernel = matern(squared_distances(support, support)).double()
    dual = torch.linalg.solve(kernel + torch.diag(doubt), targets - constant)

    expert = CompactExpert(supports=len(support), rank=rank)
    found = {
        "mean": mean,
        "scale": scale,
        "weight": per_statistic,
        "centre": centre,
        "projection": projection,
        "support": support,
        "dual": dual.float(),
        "constant": constant.float(),
    }
    expert.regression.load_state_dict(found)
    return expert.eval(), error


def _standard(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of every statistic, the tails cut."""
    ordered = x_ND.sort(0).values
    cut = int(_TAIL * len(ordered))
    x_ND = x_ND.clamp(ordered[cut], ordered[len(ordered) - 1 - cut])
    return x_ND.mean(0), x_ND.std(0).clamp_min(1e-6)


def _weigh(x_nD: Tensor, target: Tensor, recipe: ClosedForm) -> tuple[Tensor, float, float]:
    """Return the factor of each group's statistics, the noise of scores, the last error."""
    apart = []
    for part in x_nD.split(list(GROUPS.values()), 1):
        part = part * group_scale(part.shape[1])
        apart.append(squared_distances(part, part))
    distances = torch.stack(apart)
    centred = (target - target.mean()).float()
    start = torch.full((len(GROUPS),), -np.log(len(GROUPS)) - 1.0)
    groups = start.float().requires_grad_()
    noise = torch.tensor(-2.0, requires_grad=True)
    descent = torch.optim.Adam([groups, noise], lr=recipe.learning_rate)
    identity = torch.eye(len(x_nD))
    error = centred.square().mean()
    for _ in range(recipe.steps):
        kernel = matern(torch.einsum("g,gij->ij", groups.exp(), distances))
        factor = torch.linalg.cholesky(kernel + noise.exp() * identity)
        inverse = torch.cholesky_inverse(factor)
        left_out = (inverse @ centred) / inverse.diagonal()
        error = left_out.square().mean()
        descent.zero_grad()
        error.backward()
        descent.step()
    sizes = torch.tensor([group_scale(size) for size in GROUPS.values()])
    found = sizes * groups.detach().exp().sqrt()
    return found, float(noise.detach().exp()), float(error.detach())


def _principal(x_ND: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the leading directions (D, R) of vectors."""
    centre = x_ND.mean(0)
    centred = (x_ND - centre).double()
    _, directions = torch.linalg.eigh(centred.T @ centred)
    return centre, directions[:, -rank:].flip(1).float().contiguous()
