"""`examples/grpo.py`: a policy learns from rewards, and the rewards are those of the service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import ma_agiqa
from support.scripts import load_script
from support.service import start


@pytest.fixture(scope="module")
def grpo() -> ModuleType:
    return load_script("grpo", "examples")


@pytest.fixture
def pictures() -> list[Image.Image]:
    drawn = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in drawn]


def test_the_policy_moves_to_what_is_rewarded(
    grpo: ModuleType, pictures: list[Image.Image]
) -> None:
    """Bright pictures are rewarded, so light has to rise and the rest to stay near its start."""

    def brightness(finished: Sequence[Image.Image]) -> list[float]:
        return [float(np.asarray(one).mean()) for one in finished]

    policy, means = grpo.train(pictures, brightness, steps=15)
    light = policy.mean[grpo.SETTINGS.index("light")].item()
    assert light > grpo.START[0] + 0.3
    assert means[-1] > means[0] + 20  # grey values
    again, _ = grpo.train(pictures, brightness, steps=15)
    assert torch.equal(again.mean, policy.mean)


def test_no_finish_at_all_leaves_a_picture_as_it_is(
    grpo: ModuleType, pictures: list[Image.Image]
) -> None:
    finished = grpo.finish(pictures[0], [0.0] * len(grpo.SETTINGS), np.random.default_rng(0))
    assert np.array_equal(np.asarray(finished), np.asarray(pictures[0]))


def test_rewards_of_the_service_are_scores(
    grpo: ModuleType, pictures: list[Image.Image], tiny_compact: Path
) -> None:
    child, address = start("--model", tiny_compact)
    try:
        rewards = grpo.server(address)(pictures)
    finally:
        child.terminate()
        child.communicate(timeout=30)
    scorer = ma_agiqa.load(tiny_compact, device="cpu")
    assert rewards == [scorer(picture).score for picture in pictures]


def test_without_a_service_it_ends_in_one_line(
    grpo: ModuleType, pictures: list[Image.Image]
) -> None:
    with pytest.raises(SystemExit, match=r"gives no rewards: .*start `ma-agiqa serve`"):
        grpo.server("http://127.0.0.1:9")(pictures)
