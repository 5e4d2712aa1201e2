"""The mean score as a metric of torchmetrics, for the validation loop of a generator.

Shapes: B images, H, W height and width in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ma_agiqa.errors import ImageError, MissingExtraError, UsageError
from ma_agiqa.integrations.reward import Reward
from ma_agiqa.models.preprocess import to_unit

try:
    from torchmetrics import Metric
except ImportError as error:
    raise MissingExtraError("torchmetrics", "metrics") from error


class AIImageQuality(Metric):
    """Mean quality of images; higher is better.

    An image gets the score that the scorer gives it, on the device of the metric. In `forward` the
    value of a batch has a gradient to its pixels.

    Args:
        model: name, directory or Hub id, as `ma_agiqa.load` takes them.
        compute_on_cpu, dist_sync_on_step, process_group, dist_sync_fn, distributed_available_fn,
            sync_on_compute, compute_with_cache: of `torchmetrics.Metric`, as there.
    """

    is_differentiable = True
    higher_is_better = True
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(
        self,
        model: str | os.PathLike[str] = "compact",
        *,
        compute_on_cpu: bool = False,
        dist_sync_on_step: bool = False,
        process_group: Any = None,
        dist_sync_fn: Callable[..., Any] | None = None,
        distributed_available_fn: Callable[[], bool] | None = None,
        sync_on_compute: bool = True,
        compute_with_cache: bool = True,
    ) -> None:
        super().__init__(
            compute_on_cpu=compute_on_cpu,
            dist_sync_on_step=dist_sync_on_step,
            process_group=process_group,
            dist_sync_fn=dist_sync_fn,
            distributed_available_fn=distributed_available_fn,
            sync_on_compute=sync_on_compute,
            compute_with_cache=compute_with_cache,
        )
        self.network = Reward(model)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, images: Tensor | Sequence[Tensor]) -> None:
        """Add images (B, 3, H, W), or a list of (3, H, W) of any sizes: uint8, or floats in [0, 1].

        Raises:
            ImageError: an image has another shape or range, holds NaN or is too small. Then none of
                the images counts.
        """
        if isinstance(images, Tensor):
            scores = [self._scores(images)]
        else:
            scores = [self._scores(one[None], number) for number, one in enumerate(images)]
        self.total = self.total + sum(each.sum() for each in scores)
        self.count = self.count + sum(len(each) for each in scores)

    def _scores(self, images: Tensor, position: int | None = None) -> Tensor:
        unit = to_unit(images) if images.dtype == torch.uint8 else images
        try:
            scores: Tensor = self.network(unit)
        except ImageError as error:
            if position is None:
                raise
            path = f"image[{position}]"
            raise ImageError(error.reason, path=path, remedy=error.remedy) from error
        return scores

    def compute(self) -> Tensor:
        """Return the mean score, shape ().

        Raises:
            UsageError: there were no images.
        """
        if self.count == 0:
            raise UsageError("a mean of no images", remedy="call update first")
        return self.total / self.count

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot this value or several, or what `compute` returns; return figure and axes."""
        return self._plot(val, ax)
