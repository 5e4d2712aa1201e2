"""The shipped model scores damaged pictures lower, and lower the worse the damage.

On our own renderings and on pictures of AGIQA-3K that the model was not fitted to. Means over
pictures are tested at every step; single pictures as often as stated.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import ma_agiqa
from conftest import REPOSITORY
from ma_agiqa.data import datasets as registry
from ma_agiqa.data import splits
from ma_agiqa.images import read_image
from ma_agiqa.models.preprocess import to_chw, to_unit
from ma_agiqa.training.distortions import DISTORTIONS, distort

KINDS = sorted(DISTORTIONS.keys() - {"fade"})  # a faded picture may well look better
SEVERITIES = (0.3, 0.65, 1.0)


def unit(path: Path) -> Tensor:
    return to_unit(to_chw(read_image(path))[None])


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return ma_agiqa.load("compact", device="cpu").model


@pytest.fixture(scope="module")
def unseen(agiqa_3k: Path) -> list[Tensor]:
    samples = registry.load("agiqa-3k", agiqa_3k)
    rows = splits.resolve("paper", samples, agiqa_3k).part("test")[::100]
    return [unit(path) for path in samples.subset(rows).path]


@pytest.fixture(scope="module")
def renderings() -> list[Tensor]:
    return [unit(p) for p in sorted((REPOSITORY / "examples/pictures").glob("*_0-clean.*"))]


def chains(model: torch.nn.Module, pictures: list[Tensor], kind: str) -> Tensor:
    """Return scores of each picture, undamaged and at every severity: (n, 1 + severities)."""
    rows = []
    with torch.inference_mode():
        for picture in pictures:
            damaged = [distort(picture[0], kind, s, seed=0)[None] for s in SEVERITIES]
            rounded = [(x * 255).round() / 255 for x in (picture, *damaged)]
            rows.append(torch.stack([model(x).score[0] for x in rounded]))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_the_test_part_fall_with_every_step_of_damage(
    model: torch.nn.Module, unseen: list[Tensor], kind: str
) -> None:
    scores = chains(model, unseen, kind)
    assert (scores.mean(0).diff() < 0).all(), scores.mean(0)
    assert (scores[:, 2:] < scores[:, :1]).float().mean() > 0.75


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_renderings_fall_with_every_step_of_damage(
    model: torch.nn.Module, renderings: list[Tensor], kind: str
) -> None:
    scores = chains(model, renderings, kind)
    assert (scores.mean(0).diff() < 0).all(), scores.mean(0)
