"""The best of several pictures that a pipeline makes of one prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ma_agiqa.errors import UsageError, first_line
from ma_agiqa.scorer import Scorer, load


@dataclass(frozen=True)
class Generated:
    """A picture and what became of it.

    Attributes:
        seed: with which the pipeline makes it again.
        image: as the pipeline returned it; None where it returned none.
        score: on the model's scale; None after an error.
        error: why there is no score; None when there is one.
    """

    seed: int
    image: Any
    score: float | None
    error: str | None = None


def best_of(
    pipeline: Callable[..., Any],
    prompt: str,
    n: int,
    *,
    keep: int = 1,
    seed: int = 0,
    scorer: Scorer | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Generated]:
    """Make `n` pictures of a prompt and return the best, best first.

    Pictures without a score follow at the end, beyond those asked for: pictures that cannot be
    judged, that the pipeline's own safety checker blacked out, or at which the pipeline failed.

    Args:
        pipeline: of diffusers, or like one: called with the prompt and `generator`, it returns an
            object whose `images` holds the picture.
        keep: how many of those with a score are returned.
        seed: of the first picture; each further one has the next.
        scorer: `compact` when None.
        options: what else the pipeline is called with, such as the number of steps.

    Raises:
        UsageError: not 1 <= `keep` <= `n`.
        Exception: what the pipeline raised for the first picture; later errors are kept.
    """
    if not 1 <= keep <= n:
        raise UsageError(f"keep must be from 1 to n, got keep={keep} and n={n}")
    scorer = scorer or load()
    made: list[Generated] = []
    for number in range(seed, seed + n):
        generator = torch.Generator().manual_seed(number)
        try:
            output = pipeline(prompt, generator=generator, **(options or {}))
            image = output.images[0]
        except Exception as error:
            if not made:
                raise
            made.append(Generated(number, None, None, first_line(error)))
            continue
        blocked = getattr(output, "nsfw_content_detected", None)
        if blocked and blocked[0]:
            made.append(Generated(number, image, None, "blacked out by the safety checker"))
            continue
        (score,) = scorer.score([image])
        made.append(Generated(number, image, score.score, score.error))
    made.sort(key=lambda one: math.inf if one.score is None else -one.score)
    failed = sum(one.score is None for one in made)
    return made[: min(keep, n - failed)] + made[n - failed :]
