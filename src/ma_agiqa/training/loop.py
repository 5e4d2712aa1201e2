"""The training loop: one epoch, its state, and the validation that selects.

Every random choice of an epoch follows from (seed, epoch) alone, so a run that was killed
and resumed at the last finished epoch gives the same weights as an unbroken one, bit for bit
on a CPU. What this file does not do: touch a test part, or write files (`run.py`).

Shapes: B images, S side of the crop.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ma_agiqa.errors import DataError
from ma_agiqa.evaluation.metrics import plcc_raw, srcc
from ma_agiqa.training.augment import mixture, views
from ma_agiqa.training.degrade import degraded_pair
from ma_agiqa.training.images import TrainingImages
from ma_agiqa.training.losses import ranking_loss, score_loss
from ma_agiqa.training.optimisation import build_optimiser, enable_checkpointing, learning_rate
from ma_agiqa.training.recipe import Recipe
from ma_agiqa.transforms import to_unit


@dataclass(frozen=True)
class Part:
    """Images of one part of a split with their human scores.

    Attributes:
        scores: shape (n,).
        second: scores of an auxiliary target, shape (n,), or None.
        semantics: vectors of K questions, shape (n, K, F), or None for a network without.
    """

    images: TrainingImages
    scores: NDArray[np.float64]
    second: NDArray[np.float64] | None = None
    semantics: Tensor | None = None

    def semantics_of(self, positions: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
        """Return what the network takes besides images: () or one tensor (B, K, F)."""
        if self.semantics is None:
            return ()
        return (self.semantics[list(positions)].float().to(device),)


class Trainer:
    """Owns the network, its moving average, the optimiser and the step count.

    Args:
        model: network whose forward returns a record with `.score`; where it also has
            `.features` (B, C, h, w) and the network a `width` C, the auxiliary target is read
            from them.
        precision: `float32`, or `bfloat16` for automatic mixed precision.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        recipe: Recipe,
        train: Part,
        val: Part,
        seed: int,
        device: torch.device,
        precision: str,
    ) -> None:
        if len(train.images) < recipe.batch_size:
            raise DataError(
                f"{len(train.images)} training images do not fill a batch of {recipe.batch_size}",
                remedy="--set batch_size=N",
            )
        self.recipe, self.train, self.val = recipe, train, val
        self.seed, self.device, self.precision = seed, device, precision
        self.spread = float(train.scores.std())
        if recipe.checkpointing:
            enable_checkpointing(model)
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.auxiliary = self._auxiliary_head()
        extra = () if self.auxiliary is None else self.auxiliary.parameters()
        self.optimiser = build_optimiser(self.model, extra, recipe)
        self._averaged = _floating_pairs(self.average, self.model)
        self.steps_per_epoch = len(train.images) // recipe.batch_size
        self.step = 0

    def run_epoch(self, epoch: int, *, progress: Callable[[float], None] | None = None) -> float:
        """Train one epoch and return its mean loss; `progress` gets the running mean."""
        rng = np.random.default_rng([self.seed, epoch])
        torch.manual_seed(int(rng.integers(2**62)))
        self.model.train()
        plan = self._plan(rng)
        total = torch.zeros((), device=self.device)
        for done, (positions, images) in enumerate(
            zip(plan, self.train.images.batches(plan), strict=True), start=1
        ):
            total += self._step(positions, images, epoch, rng)
            if progress is not None and (done % 10 == 0 or done == len(plan)):
                progress(float(total) / done)
        if epoch == self.recipe.epochs - 1:
            self._recalibrate(epoch)
        mean = float(total) / len(plan)
        if not math.isfinite(mean):
            raise DataError(
                f"the loss became {mean} in epoch {epoch + 1}",
                remedy="--set learning_rate=… lower, or --precision float32",
            )
        return mean

    def validate(self) -> dict[str, float]:
        """Return SRCC and raw PLCC of the averaged weights on whole validation images."""
        predicted = predict(
            self.average.eval(), self.val, device=self.device, precision=self.precision
        )
        mos = self.val.scores
        return {"srcc": srcc(mos, predicted), "plcc_raw": plcc_raw(mos, predicted)}

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs besides its settings."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "auxiliary": self.auxiliary.state_dict() if self.auxiliary is not None else {},
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(state["auxiliary"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]

    def _step(
        self, positions: Sequence[int], images: list[Tensor], epoch: int, rng: np.random.Generator
    ) -> Tensor:
        recipe, count = self.recipe, len(positions)
        seen = views(images, recipe, epoch=epoch, rng=rng).to(self.device)
        targets = self._targets(self.train.scores, positions)
        targets = targets + recipe.score_noise * self.spread * torch.randn(count).to(self.device)
        factor, partners = mixture(count, share=recipe.mixup, rng=rng)
        partners = partners.to(self.device)

        def mix(x: Tensor) -> Tensor:
            return x if factor == 1.0 else factor * x + (1 - factor) * x[partners]

        inputs = [mix(seen)]
        if recipe.degraded > 0:
            inputs.extend(degraded_pair(seen[: count // 4], rng=rng))
        batch = self.train.images.normalise(torch.cat(inputs) if inputs[1:] else inputs[0])
        with autocast(self.device, self.precision):
            output = self.model(batch, *self.train.semantics_of(positions, self.device))
        score = output.score.float()
        loss = score_loss(score[:count], mix(targets), recipe=recipe, spread=self.spread)
        if self.auxiliary is not None and self.train.second is not None:
            second = mix(self._targets(self.train.second, positions))
            guess = self.auxiliary(output.features[:count].float().mean((2, 3)))[:, 0]
            loss = loss + recipe.auxiliary * F.smooth_l1_loss(guess, second)
        if recipe.degraded > 0:
            mild, strong = score[count:].chunk(2)
            ranking = ranking_loss(mild, strong, spread=self.spread)
            if factor == 1.0:  # a mixture is no clean picture to rank above its copies
                ranking = ranking + ranking_loss(score[: len(mild)], mild, spread=self.spread)
            loss = loss + recipe.degraded * ranking
        self._update(loss)
        return loss.detach()

    @torch.no_grad()
    def _recalibrate(self, epoch: int) -> None:
        """Estimate the batch-normalisation statistics of the averaged weights anew.

        An average of statistics is not what the averaged weights produce. The views are
        those of the last epoch: what the network will see when it scores.
        """
        norms = [m for m in self.average.modules() if isinstance(m, nn.BatchNorm2d)]
        if not norms or self.recipe.recalibrate == 0:
            return
        rng = np.random.default_rng([self.seed, epoch, 1])
        momentum = norms[0].momentum
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch then takes the plain mean over all batches
        plan = self._plan(rng)[: self.recipe.recalibrate]
        self.average.train()
        for positions, images in zip(plan, self.train.images.batches(plan), strict=True):
            seen = views(images, self.recipe, epoch=epoch, rng=rng).to(self.device)
            batch = self.train.images.normalise(seen)
            with autocast(self.device, self.precision):
                self.average(
                    batch.contiguous(memory_format=torch.channels_last),
                    *self.train.semantics_of(positions, self.device),
                )
        self.average.eval()
        for norm in norms:
            norm.momentum = momentum

    def _update(self, loss: Tensor) -> None:
        rate = learning_rate(self.recipe, self.step, self.steps_per_epoch * self.recipe.epochs)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip_norm > 0:
            extra = () if self.auxiliary is None else self.auxiliary.parameters()
            trained = (*self.model.parameters(), *extra)
            nn.utils.clip_grad_norm_(trained, self.recipe.clip_norm)
        self.optimiser.step()
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        average, current = self._averaged
        torch._foreach_lerp_(average, current, 1 - decay)
        self.step += 1

    def _plan(self, rng: np.random.Generator) -> list[list[int]]:
        """Shuffle the images into full batches; those left over wait for another epoch."""
        order = rng.permutation(len(self.train.images)).tolist()
        size = self.recipe.batch_size
        return [order[i * size : (i + 1) * size] for i in range(self.steps_per_epoch)]

    def _targets(self, scores: NDArray[np.float64], positions: Sequence[int]) -> Tensor:
        return torch.tensor(scores[list(positions)], dtype=torch.float32, device=self.device)

    def _auxiliary_head(self) -> nn.Linear | None:
        """Return a head for the second target, thrown away after training."""
        width = getattr(self.model, "width", None)
        if self.recipe.auxiliary == 0 or self.train.second is None or width is None:
            return None
        return nn.Linear(width, 1).to(self.device)


def _floating_pairs(average: nn.Module, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors that are averaged, and those they are averages of, in one order."""
    own, current = average.state_dict(), model.state_dict()
    floating = [name for name, value in own.items() if value.dtype.is_floating_point]
    return [own[name] for name in floating], [current[name] for name in floating]


def predict(
    model: nn.Module,
    part: Part,
    *,
    device: torch.device,
    precision: str = "float32",
    batch_size: int = 8,
) -> NDArray[np.float64]:
    """Score whole images in order; returns shape (n,). Only equal sizes share a batch."""
    scores: list[Tensor] = []
    pending: list[tuple[int, Tensor]] = []

    def flush() -> None:
        if not pending:
            return
        positions, images = zip(*pending, strict=True)
        batch = part.images.normalise(to_unit(torch.stack(images))).to(device)
        with torch.inference_mode(), autocast(device, precision):
            output = model(
                batch.contiguous(memory_format=torch.channels_last),
                *part.semantics_of(positions, device),
            )
        scores.append(output.score.float().cpu())
        pending.clear()

    for position, (image,) in enumerate(
        part.images.batches([[i] for i in range(len(part.images))])
    ):
        if len(pending) == batch_size or (pending and image.shape != pending[0][1].shape):
            flush()
        pending.append((position, image))
    flush()
    return torch.cat(scores).double().numpy()


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision for `bfloat16`, nothing for `float32`."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
