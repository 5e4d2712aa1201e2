"""The training loop: one epoch, its state, and the validation that selects.

Every random choice of an epoch follows from (seed, epoch) alone, so a run that was killed
and resumed at the last finished epoch gives the same weights as an unbroken one, bit for bit
on a CPU. Several processes plan the same batches and draw the same chances for the whole of
each, then look at their own rows (`processes.py`); a batch may also be computed in parts, one
after the other. Losses over a batch see all processes' rows of a part. What differs between
one process and several: dropout masks, and batch normalisation on CPUs (each process's own rows).
What this file does not do: touch a test part, or write files (`run.py`).

Shapes: B images of a batch, S side of the crop.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ma_agiqa.errors import DataError
from ma_agiqa.training.augment import mixture, views
from ma_agiqa.training.averaging import Average, batch_norms, recalibrate
from ma_agiqa.training.batches import Batch, Rows, balanced, require_batches
from ma_agiqa.training.losses import order_loss, score_loss
from ma_agiqa.training.optimisation import build_optimiser, enable_checkpointing, learning_rate
from ma_agiqa.training.parts import Part, autocast, predict, validation_figures
from ma_agiqa.training.processes import Processes
from ma_agiqa.training.recipe import Recipe
from ma_agiqa.training.scales import ScaleMaps


class Trainer:
    """Owns the network, its moving average, the optimiser and the step count.

    Args:
        model: network whose forward returns a record with `.score`; where it also has
            `.features` (B, C, h, w) and the network a `width` C, the auxiliary target is read
            from them.
        train, val: of several data sets, scores of `train` are on one scale (`scales.py`).
        precision: `float32`, or `bfloat16` for automatic mixed precision.
        processes: those of this training; this one alone on the CPU when None.
        sets: names of the data sets that `train.sets` and `val.sets` count.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        recipe: Recipe,
        train: Part,
        val: Part,
        seed: int,
        precision: str,
        processes: Processes | None = None,
        sets: Sequence[str] = (),
    ) -> None:
        self.processes = processes = processes or Processes(torch.device("cpu"))
        self.rows = Rows(
            batch=recipe.batch_size,
            parts=recipe.accumulate,
            rank=processes.rank,
            processes=processes.count,
        )
        require_batches(len(train.images), recipe)
        self.recipe, self.train, self.val, self.sets = recipe, train, val, tuple(sets)
        self.seed, self.device, self.precision = seed, processes.device, precision
        first = train.scores if train.sets is None else train.scores[train.sets == 0]
        self.spread = float(first.std())
        if recipe.checkpointing:
            enable_checkpointing(model)
        model = processes.synchronised(model)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaging = Average(self.model, decay=recipe.ema)
        self.average = self.averaging.model
        self.auxiliary = self._auxiliary_head()
        self.maps: ScaleMaps | None = None
        if train.sets is not None and recipe.loss != "rank":
            mean = float(first.mean())
            self.maps = ScaleMaps(sets=len(sets), mean=mean, spread=self.spread).to(self.device)
        self.beside = [p for part in (self.auxiliary, self.maps) if part for p in part.parameters()]
        self.optimiser = build_optimiser(self.model, self.beside, recipe)
        self.network = processes.wrap(self.model)
        self.steps_per_epoch = len(train.images) // recipe.batch_size
        self.step = 0
        self.predicted: NDArray[np.float64] | None = None  # of the last validation
        self._chance = torch.default_generator
        if processes.count > 1:  # dropout draws from the default one, each process its own
            self._chance = torch.Generator()

    def run_epoch(self, epoch: int, *, progress: Callable[[float], None] | None = None) -> float:
        """Train one epoch and return its mean loss; `progress` gets the running mean."""
        rng = np.random.default_rng([self.seed, epoch])
        seed = int(rng.integers(2**62))
        self._chance.manual_seed(seed)
        torch.manual_seed(seed + self.processes.rank)
        self.model.train()
        self.network.train()
        plan = self._plan(rng)
        total = torch.zeros((), device=self.device)
        for done, (positions, images) in enumerate(self._shares(plan), start=1):
            total += self._step(self._batch(positions, images, epoch, rng))
            if progress is not None and (done % 10 == 0 or done == len(plan)):
                progress(float(total) / done)
        self.averaging.settle()
        if epoch == self.recipe.epochs - 1:
            self._recalibrate(epoch)
        mean = float(self.processes.total(total)) / self.processes.count / len(plan)
        if not math.isfinite(mean):
            raise DataError(
                f"the loss became {mean} in epoch {epoch + 1}",
                remedy="--set learning_rate=… lower, or --precision float32",
            )
        return mean

    def validate(self) -> dict[str, float]:
        """Return SRCC and raw PLCC of the averaged weights on whole validation images.

        Of several data sets these are the means over sets; each set's own stand beside them
        as `srcc/NAME` and `plcc_raw/NAME`.
        """
        self.processes.share_buffers(self.average)
        self.predicted = predict(
            self.average.eval(), self.val, processes=self.processes, precision=self.precision
        )
        return validation_figures(self.val, self.predicted, self.sets)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs besides its settings."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "auxiliary": self.auxiliary.state_dict() if self.auxiliary is not None else {},
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }
        return state if self.maps is None else {**state, "maps": self.maps.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(state["auxiliary"])
        if self.maps is not None:
            self.maps.load_state_dict(state["maps"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]

    def _batch(
        self, positions: Sequence[int], images: list[Tensor], epoch: int, rng: np.random.Generator
    ) -> Batch:
        """Draw what happens to a batch, and make this process's rows of it."""
        recipe, count, own = self.recipe, len(positions), self.rows.own
        seen = views(images, recipe, epoch=epoch, rng=rng, rows=own, batch=count).to(self.device)
        targets = self._targets(self.train.scores, positions)
        noise = torch.randn(count, generator=self._chance).to(self.device)
        targets = targets + recipe.score_noise * self.spread * noise
        factor, partners = mixture(count, share=recipe.mixup, rng=rng)
        partners = partners.to(self.device)

        def mix(x: Tensor) -> Tensor:
            return x if factor == 1.0 else factor * x + (1 - factor) * x[partners]

        mixed = seen
        if factor != 1.0:
            everyone = self.processes.gather(seen)
            mixed = (
                factor * seen
                + (1 - factor) * everyone[self.rows.place.to(self.device)[partners[own]]]
            )
        second = sets = None
        if self.auxiliary is not None and self.train.second is not None:
            second = mix(self._targets(self.train.second, positions))
        if self.train.sets is not None:
            sets = torch.from_numpy(self.train.sets[list(positions)]).to(self.device)
        return Batch(
            [positions[row] for row in own],
            seen,
            mixed,
            mix(targets),
            second,
            factor,
            partners,
            sets,
        )

    def _step(self, batch: Batch) -> Tensor:
        """Change the weights by one batch; return its loss, of this process's rows."""
        rate = learning_rate(self.recipe, self.step, self.steps_per_epoch * self.recipe.epochs)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        self.optimiser.zero_grad(set_to_none=True)
        parts, total = self.recipe.accumulate, torch.zeros((), device=self.device)
        for part in range(parts):
            last = part == parts - 1
            with contextlib.nullcontext() if last else self.processes.local(self.network):
                whole, own = self._losses(batch, part)
                loss, counted = whole.detach(), whole * self.processes.count
                for term in own:
                    loss, counted = loss + term.detach(), counted + term
                (counted / parts).backward()
            total += loss / parts
        self.processes.average_gradients(self.beside)
        if self.recipe.clip_norm > 0:
            trained = (*self.model.parameters(), *self.beside)
            nn.utils.clip_grad_norm_(trained, self.recipe.clip_norm)
        self.optimiser.step()
        self.averaging.update(self.step)
        self.step += 1
        return total

    def _losses(self, batch: Batch, part: int) -> tuple[Tensor, list[Tensor]]:
        """Return the loss over all processes' rows of a part, and those over its own rows."""
        recipe, count = self.recipe, self.rows.size
        mine = slice(part * count, (part + 1) * count)
        images = self.train.images.normalise(batch.mixed[mine])
        semantics = self.train.semantics_of(batch.positions[mine], self.device)
        with autocast(self.device, self.precision):
            output = self.network(images, *semantics)
        score = output.score.float()
        own: list[Tensor] = []
        if self.auxiliary is not None and batch.second is not None:
            guess = self.auxiliary(output.features.float().mean((2, 3)))[:, 0]
            second = batch.second[self.rows.of_part(part)]
            own.append(recipe.auxiliary * F.smooth_l1_loss(guess, second))
        return self._score_loss(score, batch, part), own

    def _score_loss(self, score: Tensor, batch: Batch, part: int) -> Tensor:
        """Return the loss of this process's scores of a part, beside those of all others."""
        everyone = slice(*(p * len(score) * self.processes.count for p in (part, part + 1)))
        if self.recipe.loss == "rank":
            predicted = self.processes.gather(score)
            return order_loss(
                predicted, batch.targets[everyone], batch.kinds()[everyone], spread=self.spread
            )
        if self.maps is not None and batch.sets is not None:
            mine = self.rows.of_part(part)
            mapped = self.maps(score, batch.sets[mine])
            if batch.factor != 1.0:
                partners = self.maps(score, batch.sets[batch.partners[mine]])
                mapped = batch.factor * mapped + (1 - batch.factor) * partners
            score = mapped
        return score_loss(
            self.processes.gather(score),
            batch.targets[everyone],
            recipe=self.recipe,
            spread=self.spread,
        )

    def _recalibrate(self, epoch: int) -> None:
        """Give the averaged weights batch-normalisation statistics of their own.

        The views are those of the last epoch: what the network will see when it scores.
        """
        if not batch_norms(self.average) or self.recipe.recalibrate == 0:
            return
        rng = np.random.default_rng([self.seed, epoch, 1])
        plan = self._plan(rng)[: self.recipe.recalibrate]

        def inputs() -> Iterator[tuple[Tensor, ...]]:
            for positions, images in zip(plan, self.train.images.batches(plan), strict=True):
                seen = views(images, self.recipe, epoch=epoch, rng=rng).to(self.device)
                batch = self.train.images.normalise(seen)
                yield batch, *self.train.semantics_of(positions, self.device)

        with autocast(self.device, self.precision):
            recalibrate(self.average, inputs())

    def _plan(self, rng: np.random.Generator) -> list[list[int]]:
        """Shuffle the images into full batches; those left over wait for another epoch."""
        order = rng.permutation(len(self.train.images))
        if self.train.sets is not None and self.recipe.sampling == "balanced":
            order = balanced(self.train.sets, rng=rng)
        size = self.recipe.batch_size
        batches = order[: self.steps_per_epoch * size].reshape(-1, size)
        found: list[list[int]] = batches.tolist()
        return found

    def _shares(self, plan: list[list[int]]) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Yield each batch's positions, and the images of this process's rows."""
        own = [[batch[row] for row in self.rows.own] for batch in plan]
        return zip(plan, self.train.images.batches(own), strict=True)

    def _targets(self, scores: NDArray[np.float64], positions: Sequence[int]) -> Tensor:
        return torch.tensor(scores[list(positions)], dtype=torch.float32, device=self.device)

    def _auxiliary_head(self) -> nn.Linear | None:
        """Return a head for the second target, thrown away after training."""
        width = getattr(self.model, "width", None)
        if self.recipe.auxiliary == 0 or self.train.second is None or width is None:
            return None
        return nn.Linear(width, 1).to(self.device)
