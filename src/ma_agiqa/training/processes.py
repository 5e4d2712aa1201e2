"""One training in several processes: who does which share, and how shares come together.

Without a launcher there is one process and nothing here does anything. Under `torchrun` or
`accelerate launch` accelerate sets up the processes (nccl between GPUs, gloo between CPUs) and
averages gradients. All processes hold the same weights and draw the same random numbers for
the whole batch; each looks at its own rows of it.

A loss over the whole batch is computed by every process on all predictions, of which its own
carry gradients: the gradients of all processes add up to that of one. Because accelerate
averages where they should be added, such a loss counts once per process (`Processes.count`).

What this file does not do: divide a model over devices, or restart a process that died.

Shapes: b rows of this process, B of all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ma_agiqa import devices
from ma_agiqa.errors import MissingExtraError, UsageError


def launched() -> int:
    """Return how many processes the launcher says there are; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Say whether this is the process that writes and talks; known before torch is loaded."""
    return int(os.environ.get("RANK", "0")) == 0


def start(device: str) -> Processes:
    """Join the other processes, if there are any.

    Args:
        device: as `devices.resolve` takes it; of several processes each takes its own GPU, so
            then only `auto`, `cuda` or `cpu`.

    Raises:
        UsageError: a device that several processes cannot have.
        MissingExtraError: several processes, and accelerate is not installed.
    """
    if launched() == 1:
        return Processes(devices.resolve(device))
    if device not in ("auto", "cuda", "cpu"):
        raise UsageError(
            f"{launched()} processes cannot share the device {device!r}",
            remedy="--device auto gives each its own",
        )
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingExtraError("accelerate", "train") from error
    cpu = device == "cpu" or devices.resolve(device).type == "cpu"
    accelerator = Accelerator(cpu=cpu, mixed_precision="no")  # the loop has its own autocast
    return Processes(accelerator.device, accelerator)


class Processes:
    """The processes of a training, seen from one of them.

    Args:
        device: of this process.
        accelerator: accelerate's, or None when this process is the only one.

    Attributes:
        count: how many there are.
        rank: which one this is, from 0.
        first: whether it is the one that writes.
    """

    def __init__(self, device: torch.device, accelerator: Any = None) -> None:
        # accelerate says "cpu:0", which torch cannot load a saved state to
        self.device = torch.device("cpu") if device.type == "cpu" else device
        self._accelerator = accelerator
        self.count = 1 if accelerator is None else int(accelerator.num_processes)
        self.rank = 0 if accelerator is None else int(accelerator.process_index)
        self.first = self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the network to run forward: its gradients are averaged over processes.

        On GPUs batch normalisation then counts the rows of all processes; torch has none that
        does on CPUs, where each process normalises by its own rows.
        """
        if self._accelerator is None:
            return model
        # Already placed: moved again, "cpu" to "cpu:0" even, its tensors would be others than
        # those that the moving average follows.
        wrapped: nn.Module = self._accelerator.prepare_model(model, device_placement=False)
        return wrapped

    def synchronised(self, model: nn.Module) -> nn.Module:
        """Return a network whose batch normalisation counts the rows of all processes."""
        if self.count == 1 or self.device.type != "cuda":
            return model
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def local(self, network: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which gradients gather without being averaged."""
        if self._accelerator is None:
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[Any] = self._accelerator.no_sync(network)
        return context

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients of parameters outside the wrapped network."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:  # this process had no row that needs it
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.copy_(self._accelerator.reduce(parameter.grad, reduction="mean"))

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows (B, ...) of all processes, in order of rank; b is the same in each.

        Only this process's own rows carry gradients.
        """
        if self.count == 1:
            return rows
        shares = list(self._accelerator.gather(rows.detach().contiguous()).chunk(self.count))
        shares[self.rank] = rows
        return torch.cat(shares)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over processes; all must give the same shape."""
        if self.count == 1:
            return values
        summed: Tensor = self._accelerator.reduce(values, reduction="sum")
        return summed

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's buffers, such as running statistics."""
        if self.count > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def close(self) -> None:
        """Part from the other processes, all of them done."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
            self._accelerator.end_training()
