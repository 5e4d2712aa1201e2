"""The training loop: one epoch, its state, and the validation that selects.

Every random choice of an epoch follows from (seed, epoch) alone, so a run that was killed
and resumed at the last finished epoch gives the same weights as an unbroken one, bit for bit
on a CPU. Several processes (`torchrun`, `accelerate launch`) plan the same batches and look at
their own rows; accelerate averages their gradients. Each process computes correlation and order
within its own rows.

What this file does not do: touch a test part, or write files (`run.py`).

Shapes: B images of a batch, S side of the crop, h, w places of a map.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ma_agiqa import devices
from ma_agiqa.errors import DataError, MissingExtraError, UsageError
from ma_agiqa.evaluation.metrics import plcc_raw, srcc
from ma_agiqa.models import preprocess as preprocessing
from ma_agiqa.models.prediction import Prediction, QualityNetwork
from ma_agiqa.training.data import ScaleMaps, TrainingSet
from ma_agiqa.training.losses import MIN_CORRELATED, distortion_loss, score_loss
from ma_agiqa.training.recipe import Recipe
from ma_agiqa.training.views import Copy, View, stacked

PAPER_PERIOD = 50
"""Steps from the peak to zero of the schedule `paper`: official main.py steps
`CosineAnnealingLR(T_max=50)` after every batch, so the rate falls and climbs for the whole run."""

FIGURES = {"srcc": srcc, "plcc_raw": plcc_raw}


class Distributed:
    """The processes of a training, seen from one of them.

    Args:
        device: as `devices.resolve` takes it; of several processes each takes its own GPU, so
            then only `auto`, `cuda` or `cpu`.

    Attributes:
        count, rank: how many processes there are, and which one this is, from 0.
        first: whether it is the one that writes.

    Raises:
        UsageError: a device that several processes cannot have.
        MissingExtraError: several processes, and accelerate is not installed.
    """

    def __init__(self, device: str) -> None:
        self.count, self.rank, self._accelerator = launched(), 0, None
        if self.count == 1 and "LOCAL_RANK" not in os.environ:
            self.device = devices.resolve(device)
        else:
            if device not in ("auto", "cuda", "cpu"):
                raise UsageError(
                    f"{self.count} processes cannot share the device {device!r}",
                    remedy="--device auto gives each its own",
                )
            try:
                from accelerate import Accelerator
            except ImportError as error:
                raise MissingExtraError("accelerate", "train") from error
            cpu = device == "cpu" or devices.resolve(device).type == "cpu"
            self._accelerator = Accelerator(cpu=cpu, mixed_precision="no")  # the loop autocasts
            self.rank = int(self._accelerator.process_index)
            # accelerate says "cpu:0", which torch cannot load a saved state to
            self.device = torch.device("cpu") if cpu else self._accelerator.device
        self.first = self.rank == 0

    def rows(self, recipe: Recipe) -> range:
        """Return which rows of each batch are this process's.

        Raises:
            UsageError: a batch does not fall into equal parts, or into parts too small for the
                correlation that the recipe asks for.
        """
        size, count = recipe.batch_size, self.count
        own = size // count
        correlated = recipe.correlation > 0 and size >= MIN_CORRELATED
        least = max(-(-size // count), MIN_CORRELATED if correlated else 1)
        remedy = f"--set batch_size={least * count}"
        if size % count or recipe.distorted % count:
            if recipe.distorted % count:
                remedy += f" --set distorted={-(-recipe.distorted // count) * count}"
            raise UsageError(
                f"a batch of {size} with {recipe.distorted} distorted images does not fall into "
                f"equal parts for {count} processes",
                remedy=remedy,
            )
        if own < least:
            raise UsageError(
                f"each of {count} processes has {own} images of a batch of {size}, and their "
                f"correlation needs {MIN_CORRELATED}",
                remedy=f"{remedy}, or fewer processes",
            )
        return range(self.rank * own, (self.rank + 1) * own)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the network to run forward: its gradients are averaged over processes."""
        if self._accelerator is None:
            return model
        wrapped: nn.Module = self._accelerator.prepare_model(model, device_placement=False)
        return wrapped

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over processes; all must give the same shape."""
        if self._accelerator is None:
            return values
        summed: Tensor = self._accelerator.reduce(values, reduction="sum")
        return summed

    def close(self) -> None:
        """Part from the other processes, all of them done."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
            self._accelerator.end_training()


def launched() -> int:
    """Return how many processes the launcher says there are; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Learner(nn.Module):
    """The network, and the maps between several data sets' scales where it has one readout."""

    network: QualityNetwork

    def __init__(self, network: QualityNetwork, maps: ScaleMaps | None) -> None:
        super().__init__()
        self.network, self.maps = network, maps

    def forward(self, sets_B: Tensor, *inputs: Tensor) -> tuple[Tensor, Prediction]:
        """Return the scores of the rated images on their data sets' scales, and all there is."""
        prediction: Prediction = self.network(*inputs)
        if prediction.scores is not None:
            own_B1 = prediction.scores[: len(sets_B)].float().gather(1, sets_B[:, None])
            return own_B1.squeeze(1), prediction
        score_B = prediction.score[: len(sets_B)].float()
        return (score_B if self.maps is None else self.maps(score_B, sets_B)), prediction


class Trainer:
    """Owns the network, its moving average, the optimiser and the step count.

    Args:
        train, val: of several data sets, scores of `train` are on one scale (`data.py`).
        precision: `float32`, or `bfloat16` for automatic mixed precision.
    """

    def __init__(
        self,
        model: QualityNetwork,
        *,
        recipe: Recipe,
        train: TrainingSet,
        val: TrainingSet,
        seed: int,
        precision: str,
        distributed: Distributed | None = None,
    ) -> None:
        self.distributed = distributed = distributed or Distributed("cpu")
        self.rows = distributed.rows(recipe)
        self.recipe, self.train, self.val = recipe, train, val
        self.seed, self.device, self.precision = seed, distributed.device, precision
        first = train.scores[train.sets == 0]
        self.std = float(first.std())
        maps = None
        if len(train.names) > 1 and model.readouts == 1:
            maps = ScaleMaps(sets=len(train.names), mean=float(first.mean()), spread=self.std)
        model = model.to(memory_format=torch.channels_last)
        self.learner = Learner(model, maps).to(self.device)
        self.optimiser = build_optimiser(self.learner, recipe)
        self.average = AveragedModel(self.learner.network) if recipe.ema else None
        self.network = distributed.wrap(self.learner)
        self.steps_per_epoch = len(train.images) // recipe.batch_size
        self.step = 0
        self.predicted: NDArray[np.float64] | None = None  # of the last validation

    @property
    def kept(self) -> QualityNetwork:
        """The network that is validated and kept: averaged weights, or the last ones."""
        if self.average is None:
            return self.learner.network
        network = self.average.module
        assert isinstance(network, QualityNetwork)
        return network

    def run_epoch(self, epoch: int, *, progress: Callable[[float], None] | None = None) -> float:
        """Train one epoch and return its mean loss; `progress` gets the running mean."""
        rng = np.random.default_rng([self.seed, epoch])
        torch.manual_seed(int(rng.integers(2**62)) + self.distributed.rank)  # dropout
        self.network.train()
        size = self.recipe.batch_size
        order = rng.permutation(len(self.train.images))[: self.steps_per_epoch * size]
        plan: list[list[int]] = order.reshape(-1, size).tolist()
        total = torch.zeros((), device=self.device)
        batches = self.train.batches(
            plan,
            self.recipe,
            seed=(self.seed, epoch),
            rows=self.rows,
            distorted=self.recipe.distorted // self.distributed.count,
        )
        for done, (positions, views) in enumerate(batches, start=1):
            total += self._step(positions, views)
            if progress is not None:
                progress(float(total) / done)
        mean = float(self.distributed.total(total)) / self.distributed.count / len(plan)
        if not math.isfinite(mean):
            raise DataError(
                f"the loss became {mean} in epoch {epoch + 1}",
                remedy="--set learning_rate=… lower, or --precision float32",
            )
        return mean

    def validate(self) -> dict[str, float]:
        """Return SRCC and raw PLCC of the kept weights on whole validation images.

        Of several data sets these are the means over sets; each set's own stand beside them
        as `srcc/NAME` and `plcc_raw/NAME`.
        """
        predicted = self.predicted = self._predict(self.val)
        means, each = {}, {}
        for name, figure in FIGURES.items():
            for number, which in enumerate(self.val.names):
                own = self.val.sets == number
                each[f"{name}/{which}"] = figure(self.val.scores[own], predicted[own])
            means[name] = float(np.mean([each[f"{name}/{which}"] for which in self.val.names]))
        return means if len(self.val.names) == 1 else {**means, **each}

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs besides its settings."""
        return {
            "learner": self.learner.state_dict(),
            "average": {} if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]

    def _step(self, positions: Sequence[int], views: Sequence[View]) -> Tensor:
        """Change the weights by one batch; return its loss, of this process's rows."""
        recipe = self.recipe
        rate = learning_rate(recipe, self.step, self.steps_per_epoch * recipe.epochs)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["lr_scale"]
        copies = [copy for view in views for copy in view.copies]
        shown: list[View | Copy] = [*views, *copies]
        inputs = [self._input([one.crop for one in shown])]
        wholes = [one.whole for one in shown if one.whole is not None]
        if wholes:
            inputs.append(self._input(wholes))
        inputs += self.train.semantics_of(positions, self.device)
        targets = torch.tensor(self.train.scores[list(positions)], dtype=torch.float32)
        sets = torch.from_numpy(self.train.sets[list(positions)]).to(self.device)
        self.optimiser.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            score, prediction = self.network(sets, *inputs)
        loss = score_loss(score, targets.to(self.device), sets, recipe=recipe, std=self.std)
        if prediction.likeness is not None:
            # Judged without the prior, which so becomes part of what the network says.
            likeness = prediction.likeness[: len(sets)].float()
            likeness = torch.cat([likeness[:, :1] - recipe.first_prior, likeness[:, 1:]], dim=1)
            loss = loss + recipe.likeness * nn.functional.cross_entropy(likeness, sets)
        if copies:
            assert prediction.weight_map is not None
            loss = loss + recipe.distortion_weight * distortion_loss(
                prediction.score / self.std,
                prediction.contribution_map / prediction.weight_map / self.std,
                views,
                map_weight=recipe.map_weight,
            )
        loss.backward()
        if recipe.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.learner.parameters(), recipe.clip_norm)
        self.optimiser.step()
        if self.average is not None:
            decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
            self.average.multi_avg_fn = get_ema_multi_avg_fn(decay)
            self.average.update_parameters(self.learner.network)
        self.step += 1
        return loss.detach()

    def _input(self, pixels: list[Any]) -> Tensor:
        unit = preprocessing.to_unit(stacked(pixels).to(self.device))
        return preprocessing.from_unit(unit, self.train.images.preprocess).contiguous(
            memory_format=torch.channels_last
        )

    def _predict(self, part: TrainingSet) -> NDArray[np.float64]:
        """Score whole images in order, shape (n,). Only equal sizes share a batch.

        Of several processes each scores its share, and all get all scores.
        """
        model = self.kept.eval()
        batch_size = 1 if model.alone and self.device.type == "cpu" else 8
        scores = torch.zeros(len(part.images))
        pending: list[tuple[int, Any]] = []

        def flush() -> None:
            if pending:
                positions, images = zip(*pending, strict=True)
                semantics = part.semantics_of(positions, self.device)
                with torch.inference_mode(), autocast(self.device, self.precision):
                    output = model(self._input(list(images)), *semantics)
                scores[list(positions)] = output.score.float().cpu()
                pending.clear()

        for position in range(self.distributed.rank, len(part.images), self.distributed.count):
            image = part.images[position]
            if len(pending) == batch_size or (pending and image.shape != pending[0][1].shape):
                flush()
            pending.append((position, image))
        flush()
        found = self.distributed.total(scores.to(self.device)).double().cpu().numpy()
        return np.asarray(found, dtype=np.float64)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision for `bfloat16`, nothing for `float32`."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def build_optimiser(learner: Learner, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over the trainable parameters; rates are set each step."""
    groups: dict[tuple[bool, int], dict[str, Any]] = {}
    for name, parameter in learner.named_parameters():
        owner, _, inner = name.partition(".")
        depth = learner.network.depth_of(inner) if owner == "network" else 0
        if 0 < recipe.frozen_depth <= depth:
            parameter.requires_grad_(False)
            continue
        decayed = recipe.optimiser == "adam" or parameter.ndim > 1
        group = groups.setdefault(
            (decayed, depth),
            {
                "params": [],
                "weight_decay": recipe.weight_decay * decayed,
                "lr_scale": recipe.depth_decay**depth,
            },
        )
        group["params"].append(parameter)
    # One pass over the weights instead of a dozen on a GPU. It rounds differently, so not on a
    # CPU, where a run repeats those of earlier versions bit for bit.
    fused = next(learner.parameters()).is_cuda or None
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    return kind(list(groups.values()), lr=0.0, fused=fused)


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Return the rate of step `step` (from 0) of `total`."""
    if recipe.schedule == "paper":
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / PAPER_PERIOD))
    warmup = max(1, int(total * recipe.warmup))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    past = (step - warmup) / max(1, total - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * past))
