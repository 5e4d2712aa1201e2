"""Fit a kernel regression to pictures and other views of them: no step over the images.

Two things are learned. How much each group of statistics counts, and how noisy the targets are, by
descending the leave-one-out error of the undamaged pictures, which kernel regression gives in
closed form (Rasmussen and Williams 2006, section 5.4.2). Then the dual weights, exactly.

What this file does not do: decide what to regress on what (`closed_form.py`).

Shapes: n pictures, c other views each, N = n (1 + c), D statistics, R coordinates, K values.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ma_agiqa.experts.kernel import KernelRegression, limit, matern, squared_distances
from ma_agiqa.training.recipe import ClosedForm

_TAIL = 0.001  # share of pictures at each end that does not decide mean and deviation
_ONE_UNIT = ("words", "origin")  # groups whose small numbers tell little: not to be stretched


def regress(
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
    mean, scale = standard(every)
    for name, part in zip(groups, scale.split([*groups.values()]), strict=True):
        if name in _ONE_UNIT:
            part.fill_(part.max())
    limited = limit(every, mean, scale)
    weight, noise, error = weigh(limited[:n], wanted[:n], groups, recipe)
    regression = _remember(limited, mean, scale, weight, rank=min(rank, n), values=wanted.shape[1])
    doubt = torch.full((n * views,), noise * recipe.doubt, dtype=torch.float64)
    doubt[:n] = noise
    kernel = matern(squared_distances(regression.support, regression.support)).double()
    factor = torch.linalg.cholesky(kernel + torch.diag(doubt))
    constant = wanted[:n].mean(0)
    regression.dual.copy_(torch.cholesky_solve(wanted - constant, factor))
    regression.constant.copy_(constant)
    return regression, factor, error


def left_out(factor: Tensor, targets: Tensor) -> Tensor:
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
    centre, projection = principal(weighted, rank)
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


def standard(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of every statistic, the tails cut."""
    ordered = x_ND.sort(0).values
    cut = int(_TAIL * len(ordered))
    x_ND = x_ND.clamp(ordered[cut], ordered[len(ordered) - 1 - cut])
    return x_ND.mean(0), x_ND.std(0).clamp_min(1e-6)


def weigh(
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
        missed = (inverse @ centred) / inverse.diagonal()[:, None]
        error = missed.square().mean()
        descent.zero_grad()
        error.backward()
        descent.step()
    found = weights.detach().exp().sqrt()
    factors = [
        torch.full((size,), unit * float(weight))
        for weight, unit, size in zip(found, units, sizes, strict=True)
    ]
    return torch.cat(factors), float(noise.detach().exp()), float(error.detach())


def principal(x_ND: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the leading directions (D, R) of vectors."""
    centre = x_ND.mean(0)
    centred = (x_ND - centre).double()
    if len(centred) < centred.shape[1]:  # the smaller system has the same directions
        _, mixed = torch.linalg.eigh(centred @ centred.T)
        directions = centred.T @ mixed
        directions = directions / directions.norm(dim=0).clamp_min(1e-9)
    else:
        _, directions = torch.linalg.eigh(centred.T @ centred)
    first = directions.shape[1] - rank
    return centre, directions[:, first:].flip(1).float().contiguous()
