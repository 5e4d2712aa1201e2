"""Fit the compact model: no steps over the images, systems of linear equations.

Each training picture is described once, and with it other views of it. Views that people would
score alike (a part of it, a smaller size) have the picture's own score as target. Damaged
copies have that score lowered in proportion to the damage: they teach what people never rated
here (noise, blocking, banding) and keep a damaged picture from passing for an unknown one.

Two regressions are fitted, one after the other. The first tells, from the statistics, which
generator made a picture. What it says joins the statistics from which the second tells the
score: of a training picture, and of its views, what the first says without that picture, as
it will speak of pictures it has not seen (stacked generalisation, Wolpert 1992).

Beside them stands the distance from the best-rated pictures, with a fixed share in the score.

Of each regression two things are learned. How much each group of statistics counts, and how
noisy the targets are, by descending the leave-one-out error of the undamaged pictures, which
kernel regression gives in closed form (Rasmussen and Williams 2006, section 5.4.2). Then the
dual weights, exactly.

Shapes: n pictures, c other views each, N = n (1 + c), D statistics, R coordinates, K values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ma_agiqa.errors import UsageError
from ma_agiqa.experts import words
from ma_agiqa.experts.closeness import Closeness, taking_part
from ma_agiqa.experts.compact import CompactExpert, reduced
from ma_agiqa.experts.kernel import (
    KernelRegression,
    limit,
    matern,
    squared_distances,
)
from ma_agiqa.experts.statistics import GROUPS

_TAIL = 0.001  # share of pictures at each end that does not decide mean and deviation
_BEST = 0.2  # share of the pictures, those rated best, that others are measured from
_ONE_UNIT = ("words", "origin")  # groups whose small numbers tell little: not to be stretched
_SPREAD = 0.5  # variance added to each of their statistics, so that no direction is exact


@dataclass(frozen=True)
class ClosedForm:
    """How to fit the compact model.

    Attributes:
        alike: views of each training picture that deserve its score, see `alike.py`.
        copies: damaged copies of each training picture, see `degrade.py`.
        fall: share of its height above the lowest score that a picture loses when damaged
            with full severity.
        doubt: how many times noisier the target of a view is than a human score.
        components: directions that the visual words are reduced to; 0 leaves them out.
        rank: coordinates by which pictures are remembered.
        origin_rank: the same for telling generators apart; with 0 they are not asked for.
        share: of the score that closeness to the best-rated pictures gives; 0 for none.
        steps: of the descent that weighs the groups of statistics.
        learning_rate: of that descent, in logarithms of the weights.
    """

    alike: int = 1
    copies: int = 1
    fall: float = 0.6
    doubt: float = 4.0
    components: int = 96
    rank: int = 176
    origin_rank: int = 150
    share: float = 0.2
    steps: int = 40
    learning_rate: float = 0.15

    def __post_init__(self) -> None:
        for name in ("rank", "learning_rate", "doubt"):
            if getattr(self, name) <= 0:
                raise UsageError(f"recipe: {name} must be positive, got {getattr(self, name)}")
        for name in ("alike", "copies", "components", "origin_rank", "steps"):
            if getattr(self, name) < 0:
                raise UsageError(f"recipe: {name} must not be negative: {getattr(self, name)}")
        for name in ("fall", "share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"recipe: {name} must lie in [0, 1], got {getattr(self, name)}")


def fit(
    statistics: Tensor,
    severity: Tensor,
    scores: NDArray[np.float64],
    recipe: ClosedForm,
    *,
    low: float,
    origins: Sequence[str] = (),
) -> tuple[CompactExpert, float]:
    """Fit to pictures and other views of them.

    Returns:
        The expert in eval mode, and the mean squared error with which each undamaged picture
        is predicted from the others alone (weights of the groups were chosen by it).

    Args:
        statistics: (n, 1 + c, D), the undamaged picture first.
        severity: of the views' damage, (n, c), within 0 and 1.
        scores: human scores (n,).
        low: lowest score of the scale, which damage leads towards.
        origins: what made each picture, n names; one name for all, or none, tells nothing.
    """
    views = statistics.shape[1]
    components = min(recipe.components, len(statistics))
    groups = {name: size for name, size in GROUPS.items() if name != "words"}
    if components:
        groups["words"] = components
    origin = None
    target = torch.from_numpy(scores)
    closeness = _closeness(statistics[:, 0], target) if recipe.share else None
    of_words = _components(statistics[:, 0, -words.SIZE :], components)
    statistics = reduced(statistics, of_words)
    names = sorted(set(origins))
    if recipe.origin_rank and len(names) > 1:
        made_by = torch.tensor([[one == name for name in names] for one in origins]).double()
        made_by = made_by[:, None].expand(-1, views, -1)  # another view too
        origin, factor, _ = _regress(statistics, made_by, groups, recipe, rank=recipe.origin_rank)
        statistics = torch.cat([statistics, _left_out(factor, made_by)], 2)
        groups["origin"] = len(names)

    lowered = low + (target[:, None] - low) * (1 - recipe.fall * severity.double())
    targets = torch.cat([target[:, None], lowered], 1)[:, :, None]
    regression, _, error = _regress(statistics, targets, groups, recipe, rank=recipe.rank)

    supports, rank = regression.support.shape
    expert = CompactExpert(supports=supports, components=components, rank=rank, share=recipe.share)
    expert.words, expert.closeness = of_words, closeness
    expert.regression, expert.origin = regression, origin
    return expert.eval(), error


def arguments_of(expert: CompactExpert) -> dict[str, int | float]:
    """Return the arguments that make an expert of the same shape."""
    supports, rank = expert.regression.support.shape
    components = expert.words.directions.shape[1]
    found: dict[str, int | float] = {"supports": supports, "components": components, "rank": rank}
    if expert.origin is not None:
        found |= {
            "origins": len(expert.origin.constant),
            "origin_rank": expert.origin.support.shape[1],
        }
    return found | {"share": expert.share}


def _regress(
    statistics: Tensor,
    targets: Tensor,
    groups: Mapping[str, int],
    recipe: ClosedForm,
    *,
    rank: int,
) -> tuple[KernelRegression, Tensor, float]:
    """Fit one regression to pictures and their views.

    Returns:
        The regression; the Cholesky factor (N, N) of its system; the error that the groups were
        weighed by.

    Args:
        statistics: (n, 1 + c, D), the undamaged picture first.
        targets: (n, 1 + c, K).
        groups: length of each group of the D statistics.
    """
    n, views, _ = statistics.shape
    every = statistics.transpose(0, 1).flatten(0, 1)  # (N, D): pictures, then views
    wanted = targets.transpose(0, 1).flatten(0, 1)  # (N, K)
    mean, scale = _standard(every)
    for name, part in zip(groups, scale.split([*groups.values()]), strict=True):
        if name in _ONE_UNIT:
            part.fill_(part.max())
    limited = limit(every, mean, scale)
    weight, noise, error = _weigh(limited[:n], wanted[:n], groups, recipe)
    regression = _remember(limited, mean, scale, weight, rank=min(rank, n), values=wanted.shape[1])
    doubt = torch.full((n * views,), noise * recipe.doubt, dtype=torch.float64)
    doubt[:n] = noise
    kernel = matern(squared_distances(regression.support, regression.support)).double()
    factor = torch.linalg.cholesky(kernel + torch.diag(doubt))
    constant = wanted[:n].mean(0)
    regression.dual.copy_(torch.cholesky_solve(wanted - constant, factor))
    regression.constant.copy_(constant)
    return regression, factor, error


def _components(words_nS: Tensor, count: int) -> words.Components:
    """Return the leading directions of the visual words of pictures."""
    found = words.Components(count)
    centre = words_nS.mean(0)
    centred = (words_nS - centre).double()
    # Of the pictures' products: there are fewer pictures than numbers.
    _, mixed = torch.linalg.eigh(centred @ centred.T)
    directions = centred.T @ mixed[:, len(mixed) - count :].flip(1)
    found.centre.copy_(centre)
    found.directions.copy_(directions / directions.norm(dim=0).clamp_min(1e-9))
    return found


def _closeness(statistics_nD: Tensor, scores_n: Tensor) -> Closeness:
    """Measure pictures from the best-rated ones; fit scores to the logarithm of the distance."""
    found = Closeness()
    told = taking_part(statistics_nD)
    mean, scale = _standard(told)
    limited = limit(told, mean, scale)
    first = scores_n.argsort(descending=True, stable=True)
    best = limited[first[: max(2, int(_BEST * len(limited)))]]
    spread = best.T.cov().double() + _SPREAD * torch.eye(limited.shape[1]).double()
    numbers = {
        "mean": mean,
        "scale": scale,
        "centre": best.mean(0),
        "whitening": torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(spread))),
    }
    for name, value in numbers.items():
        getattr(found, name).copy_(value)
    distance = found.log_distance(statistics_nD).double()
    columns = torch.stack([torch.ones_like(distance), distance], 1)
    found.line.copy_(torch.linalg.lstsq(columns, scores_n[:, None]).solution[:, 0])
    return found


def _left_out(factor: Tensor, targets: Tensor) -> Tensor:
    """Return what a regression says of each picture and view, fitted without that picture.

    Without it means without all its views. A block of the inverse and of the dual weights is all
    that it takes.

    Args:
        factor: Cholesky factor (N, N) of the regression's system.
        targets: (n, 1 + c, K).
    """
    n, views, _ = targets.shape
    wanted = targets.transpose(0, 1).flatten(0, 1)
    inverse = torch.cholesky_inverse(factor)
    dual = inverse @ (wanted - wanted[:n].mean(0))
    own = inverse.reshape(views, n, views, n).diagonal(dim1=1, dim2=3).permute(2, 0, 1)
    missing = torch.linalg.solve(own, dual.reshape(views, n, -1).transpose(0, 1))
    return (targets - missing).float()


def _remember(
    limited_ND: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, *, rank: int, values: int
) -> KernelRegression:
    """Return a regression whose supports are these vectors; its dual weights are still zero."""
    weighted = limited_ND * weight
    centre, projection = _principal(weighted, rank)
    supports, statistics = limited_ND.shape
    regression = KernelRegression(
        statistics=statistics, rank=rank, supports=supports, values=values
    )
    found = {
        "mean": mean,
        "scale": scale,
        "weight": weight,
        "centre": centre,
        "projection": projection,
        "support": (weighted - centre) @ projection,
    }
    for name, value in found.items():
        getattr(regression, name).copy_(value)
    return regression


def _standard(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of every statistic, the tails cut."""
    ordered = x_ND.sort(0).values
    cut = int(_TAIL * len(ordered))
    x_ND = x_ND.clamp(ordered[cut], ordered[len(ordered) - 1 - cut])
    return x_ND.mean(0), x_ND.std(0).clamp_min(1e-6)


def _weigh(
    x_nD: Tensor, target_nK: Tensor, groups: Mapping[str, int], recipe: ClosedForm
) -> tuple[Tensor, float, float]:
    """Return the factor of each statistic (D,), the noise of targets, the last error."""
    sizes = list(groups.values())
    units, apart = [], []
    for part in x_nD.split(sizes, 1):
        # Two pictures lie a distance of 1 apart in each group, in the mean.
        units.append(float((2 * part.var(0).sum()).clamp_min(1e-6).rsqrt()))
        part = part * units[-1]
        apart.append(squared_distances(part, part))
    distances = torch.stack(apart)
    centred = (target_nK - target_nK.mean(0)).float()
    weights = torch.full((len(groups),), -np.log(len(groups)) - 1.0).float().requires_grad_()
    noise = torch.tensor(-2.0, requires_grad=True)
    descent = torch.optim.Adam([weights, noise], lr=recipe.learning_rate)
    identity = torch.eye(len(x_nD))
    error = centred.square().mean()
    for _ in range(recipe.steps):
        kernel = matern(torch.einsum("g,gij->ij", weights.exp(), distances))
        factor = torch.linalg.cholesky(kernel + noise.exp() * identity)
        inverse = torch.cholesky_inverse(factor)
        left_out = (inverse @ centred) / inverse.diagonal()[:, None]
        error = left_out.square().mean()
        descent.zero_grad()
        error.backward()
        descent.step()
    found = weights.detach().exp().sqrt()
    factors = [
        torch.full((size,), unit * float(weight))
        for weight, unit, size in zip(found, units, sizes, strict=True)
    ]
    return torch.cat(factors), float(noise.detach().exp()), float(error.detach())


def _principal(x_ND: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the leading directions (D, R) of vectors."""
    centre = x_ND.mean(0)
    centred = (x_ND - centre).double()
    _, directions = torch.linalg.eigh(centred.T @ centred)
    return centre, directions[:, -rank:].flip(1).float().contiguous()
