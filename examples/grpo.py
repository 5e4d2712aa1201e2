"""A GRPO run with our reward, in small: a policy learns to finish pictures that score well.

    ma-agiqa serve --port 18086
    python examples/grpo.py --server http://127.0.0.1:18086 [--out FOLDER]

The loop is that of any trainer with group-relative policy optimization (DeepSeekMath, arXiv
2402.03300): of each picture a group is drawn, the reward of each is compared with its group's mean,
and the policy takes clipped steps towards what was better, held near where it began. What stands
in for a generator is small enough for a laptop: a Gaussian over five settings of a finish (light,
contrast, colour, sharpness, grain) that starts dull, soft and grainy. Rewards come over HTTP, in
the request of Flow-Factory's client.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import io
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor, nn
from torch.distributions import Normal

from ma_agiqa.provenance import environment

Reward = Callable[[Sequence[Image.Image]], Sequence[float]]

PICTURES = Path(__file__).parent / "pictures"
HELD_OUT = "flower"
"""The scene that the policy is judged on and never trained on."""

SETTINGS = ("light", "contrast", "colour", "sharpness", "grain")
START = (-0.3, -0.6, -0.6, -0.8, 0.5)
LIMIT = 1.0  # of a setting, either way; 0 leaves the picture as it is
SPREAD = 0.25
GRAIN = 40.0  # grey values, deviation at a grain of 1


class Finisher(nn.Module):
    """The policy: a mean and a deviation for each setting, the same for all pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(START))
        self.log_deviation = nn.Parameter(torch.full((len(SETTINGS),), SPREAD).log())

    def forward(self) -> Normal:
        return Normal(self.mean, self.log_deviation.exp())


def finish(
    picture: Image.Image, settings: Sequence[float], noise: np.random.Generator
) -> Image.Image:
    """Finish a picture; what noise there is comes from `noise`."""
    light, contrast, colour, sharpness, grain = np.clip(settings, -LIMIT, LIMIT)
    for kind, setting in (
        (ImageEnhance.Brightness, light),
        (ImageEnhance.Contrast, contrast),
        (ImageEnhance.Color, colour),
        (ImageEnhance.Sharpness, sharpness),
    ):
        picture = kind(picture).enhance(1.0 + float(setting))
    pixels = np.asarray(picture, dtype=np.float32)
    pixels = pixels + GRAIN * max(grain, 0.0) * noise.standard_normal(pixels.shape[:2])[..., None]
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def server(address: str) -> Reward:
    """Return the reward that the service at an address gives."""

    def reward(pictures: Sequence[Image.Image]) -> Sequence[float]:
        texts = []
        for picture in pictures:
            file = io.BytesIO()
            picture.save(file, "png")
            texts.append(base64.b64encode(file.getvalue()).decode())
        request = urllib.request.Request(
            f"{address.rstrip('/')}/compute",
            data=json.dumps({"image": texts, "prompt": [""] * len(texts)}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                rewards: list[float] = json.load(reply)["rewards"]
        except urllib.error.URLError as error:
            sys.exit(f"{address} gives no rewards: {error.reason}; start `ma-agiqa serve` there")
        return rewards

    return reward


def train(
    pictures: Sequence[Image.Image],
    reward: Reward,
    *,
    steps: int,
    group: int = 8,
    rate: float = 0.05,
    clip: float = 0.2,
    hold: float = 0.01,
    passes: int = 2,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda step, mean: None,
) -> tuple[Finisher, list[float]]:
    """Learn a finish; return the policy and the mean reward of each step.

    Args:
        group: finishes drawn of each picture.
        rate: of Adam.
        clip: how far the probability of what was drawn may move in one step, either way.
        hold: weight of the divergence from the policy at the start.
        passes: over the rewards of one step.
        report: told step and mean reward.
    """
    noise = np.random.default_rng(seed)
    drawn_by = torch.Generator().manual_seed(seed)
    policy, start = Finisher(), Finisher().requires_grad_(False)()
    optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
    means = []
    for step in range(steps):
        with torch.no_grad():
            old = policy()
            shape = (len(pictures), group, len(SETTINGS))
            settings = old.mean + old.stddev * torch.randn(shape, generator=drawn_by)
            before = old.log_prob(settings).sum(-1)
        finished = [
            finish(picture, row.tolist(), noise)
            for picture, rows in zip(pictures, settings, strict=True)
            for row in rows
        ]
        rewards = torch.tensor(reward(finished)).reshape(len(pictures), group)
        better = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        for _ in range(passes):
            now = policy()
            ratio = (now.log_prob(settings).sum(-1) - before).exp()
            gain = torch.minimum(ratio * better, ratio.clamp(1 - clip, 1 + clip) * better)
            away = torch.distributions.kl_divergence(now, start).sum()
            loss: Tensor = hold * away - gain.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        means.append(rewards.mean().item())
        report(step, means[-1])
    return policy, means


def judge(policy: Normal, pictures: Sequence[Image.Image], reward: Reward) -> list[float]:
    """Return the reward of each picture under the policy's mean, without chance."""
    noise = np.random.default_rng(0)
    return list(reward([finish(one, policy.mean.tolist(), noise) for one in pictures]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="http://127.0.0.1:18086")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the record and the held-out picture: start, end, untouched",
    )
    options = parser.parse_args()
    reward = server(options.server)
    pictures = {
        path.stem.partition("_")[0]: Image.open(path).convert("RGB")
        for path in sorted(PICTURES.glob("*_0-clean.jpg"))
    }
    held_out = [pictures.pop(HELD_OUT)]
    seen = list(pictures.values())
    policy, means = train(
        seen,
        reward,
        steps=options.steps,
        group=options.group,
        seed=options.seed,
        report=lambda step, mean: print(f"step {step + 1}: mean reward {mean:.3f}", flush=True),
    )
    with torch.no_grad():
        first, last = Finisher()(), policy()
    record: dict[str, Any] = {
        "what": "grpo",
        "command": "python " + " ".join(sys.argv),
        **dataclasses.asdict(environment()),
        "mean_reward_of_steps": means,
        "settings": {
            name: {"start": before, "end": after}
            for name, before, after in zip(
                SETTINGS, first.mean.tolist(), last.mean.tolist(), strict=True
            )
        },
        "untouched": {"seen": list(reward(seen)), "held_out": list(reward(held_out))},
        "start": {"seen": judge(first, seen, reward), "held_out": judge(first, held_out, reward)},
        "end": {"seen": judge(last, seen, reward), "held_out": judge(last, held_out, reward)},
    }
    print(json.dumps({name: record[name] for name in ("settings", "untouched", "start", "end")}))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "grpo.json").write_text(json.dumps(record, indent=2) + "\n")
        noise, whole = np.random.default_rng(0), held_out[0]
        beside = [finish(whole, policy.mean.tolist(), noise) for policy in (first, last)]
        strip = np.concatenate([np.asarray(one)[::2, ::2] for one in (*beside, whole)], axis=1)
        Image.fromarray(strip).save(options.out / "grpo.jpg", quality=90)


if __name__ == "__main__":
    main()
