"""The moving average of a network's weights: what is validated and kept.

Shapes: B images, S side of the crop.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Average:
    """Follows a network step by step.

    Args:
        model: the network; its tensors must stay the same objects.
        decay: of the average, per step; early on it is shorter: min(decay, (1+s)/(10+s)). With
            0 the average is the network as it last stood, taken only by `settle`.

    Attributes:
        model: a network with the averaged weights.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay, self.model = decay, copy.deepcopy(model).requires_grad_(False)
        own, current = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in own.items() if value.dtype.is_floating_point]
        self._own = [own[name] for name in floating]
        self._current = [current[name] for name in floating]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the network after step `step`, counted from 0."""
        if self.decay == 0:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._own, self._current, 1 - decay)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring the average up to date at the end of an epoch."""
        if self.decay == 0:
            torch._foreach_copy_(self._own, self._current)


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d | nn.SyncBatchNorm]:
    """Return the layers that keep statistics of what passes through them."""
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]


@torch.no_grad()
def recalibrate(model: nn.Module, inputs: Iterable[tuple[Tensor, ...]]) -> None:
    """Estimate batch-normalisation statistics anew from inputs of the network.

    An average of statistics is not what averaged weights produce.
    """
    norms = batch_norms(model)
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then takes the plain mean over all batches
    model.train()
    for batch in inputs:
        model(*batch)
    model.eval()
    for norm, before in zip(norms, momentum, strict=True):
        norm.momentum = before
