"""Best of n: made again from its seed, best first, failures kept at the end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ma_agiqa
from ma_agiqa.errors import UsageError
from ma_agiqa.integrations.generation import best_of
from support.tiny_scorer import make_scorer


def paint(prompt: str, *, generator: torch.Generator, side: int = 40, **_: Any) -> SimpleNamespace:
    """Stand in for a pipeline: a picture of noise that depends on the seed alone."""
    pixels = torch.randint(0, 256, (side, side, 3), generator=generator, dtype=torch.uint8)
    return SimpleNamespace(images=[Image.fromarray(pixels.numpy())])


def test_the_best_come_first_with_scores_and_seeds() -> None:
    scorer = make_scorer()
    best = best_of(paint, "a fox", 6, keep=2, seed=10, scorer=scorer)
    generators = {seed: torch.Generator().manual_seed(seed) for seed in range(10, 16)}
    pictures = {seed: paint("", generator=one).images[0] for seed, one in generators.items()}
    scores = {seed: float(scorer(picture)) for seed, picture in pictures.items()}
    ranking = sorted(scores, key=scores.__getitem__, reverse=True)
    assert [one.seed for one in best] == ranking[:2]
    assert [one.score for one in best] == pytest.approx([scores[one.seed] for one in best])
    for one in best:
        assert np.array_equal(one.image, pictures[one.seed])
        assert one.error is None


def test_prompt_and_options_reach_the_pipeline_and_the_default_is_compact() -> None:
    seen = []

    def pipeline(prompt: str, **options: Any) -> SimpleNamespace:
        seen.append((prompt, options["side"], options["generator"].initial_seed()))
        return paint(prompt, **options)

    (best,) = best_of(pipeline, "a hen", 2, options={"side": 48})
    assert seen == [("a hen", 48, 0), ("a hen", 48, 1)]
    assert best.image.size == (48, 48)
    assert best.score == pytest.approx(ma_agiqa.load("compact")(best.image).score, abs=1e-6)


def test_failures_of_all_kinds_are_kept_at_the_end() -> None:
    def fragile(prompt: str, *, generator: torch.Generator) -> SimpleNamespace:
        seed = generator.initial_seed()
        if seed == 2:
            raise RuntimeError("CUDA out of memory\nand more")
        output = paint(prompt, generator=generator, side=8 if seed == 1 else 40)
        output.nsfw_content_detected = [seed == 3]
        return output

    made = best_of(fragile, "a fox", 5, keep=3, scorer=make_scorer())
    assert [one.seed for one in made[2:]] == [1, 2, 3]
    assert {one.seed for one in made[:2]} == {0, 4}
    assert made[0].score > made[1].score
    assert [one.score for one in made[2:]] == [None] * 3
    small, failed, blocked = made[2:]
    assert "too small to judge" in small.error
    assert small.image.size == (8, 8)
    assert failed.error == "CUDA out of memory"
    assert failed.image is None
    assert "safety checker" in blocked.error


def test_fewer_are_kept_than_made_but_no_failure_is_lost() -> None:
    def every_other(prompt: str, *, generator: torch.Generator) -> SimpleNamespace:
        odd = generator.initial_seed() % 2
        return paint(prompt, generator=generator, side=8 if odd else 40)

    made = best_of(every_other, "a fox", 6, keep=1, scorer=make_scorer())
    assert [one.error is None for one in made] == [True, False, False, False]


def test_a_call_that_fails_from_the_start_says_so_at_once() -> None:
    calls = []

    def wrong(prompt: str, **options: Any) -> SimpleNamespace:
        calls.append(options)
        raise TypeError("unexpected keyword argument 'stps'")

    with pytest.raises(TypeError, match="stps"):
        best_of(wrong, "a fox", 4, options={"stps": 3}, scorer=make_scorer())
    assert len(calls) == 1


@pytest.mark.parametrize(("n", "keep"), [(0, 1), (3, 4), (3, 0)])
def test_impossible_numbers_are_refused(n: int, keep: int) -> None:
    with pytest.raises(UsageError, match=f"keep={keep} and n={n}"):
        best_of(paint, "a fox", n, keep=keep, scorer=make_scorer())
