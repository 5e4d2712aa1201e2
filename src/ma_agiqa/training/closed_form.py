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

How a regression is fitted stands in `regression.py`.

Shapes: n pictures, c other views each, D statistics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ma_agiqa.experts import words
from ma_agiqa.experts.closeness import Closeness, taking_part
from ma_agiqa.experts.compact import CompactExpert, reduced
from ma_agiqa.experts.kernel import limit
from ma_agiqa.experts.statistics import GROUPS
from ma_agiqa.training.recipe import ClosedForm
from ma_agiqa.training.regression import left_out, principal, regress, standard

_BEST = 0.2  # share of the pictures, those rated best, that others are measured from
_SPREAD = 0.5  # variance added to each of their statistics, so that no direction is exact


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
        origin, factor, _ = regress(statistics, made_by, groups, recipe, rank=recipe.origin_rank)
        statistics = torch.cat([statistics, left_out(factor, made_by)], 2)
        groups["origin"] = len(names)

    lowered = low + (target[:, None] - low) * (1 - recipe.fall * severity.double())
    targets = torch.cat([target[:, None], lowered], 1)[:, :, None]
    regression, _, error = regress(statistics, targets, groups, recipe, rank=recipe.rank)

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


def _components(words_nS: Tensor, count: int) -> words.Components:
    """Return the leading directions of the visual words of pictures."""
    found = words.Components(count)
    centre, directions = principal(words_nS, count)
    found.centre.copy_(centre)
    found.directions.copy_(directions)
    return found


def _closeness(statistics_nD: Tensor, scores_n: Tensor) -> Closeness:
    """Measure pictures from the best-rated ones; fit scores to the logarithm of the distance."""
    found = Closeness()
    told = taking_part(statistics_nD)
    mean, scale = standard(told)
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
