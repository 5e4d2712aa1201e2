"""Where workers run: in this process, or as actors of Ray Data.

What this file does not do: know what they work on (`job.py`, `cli/extract.py`).
"""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ma_agiqa.errors import MAAGIQAError, MissingExtraError, UsageError, first_line
from ma_agiqa.provenance import available_cores

CONNECT_SECONDS = 5.0
FREE_SECONDS = 60.0
"""Longest wait for a core of a cluster; a pool of actors without one would wait for ever."""


class Answering(Protocol):
    """A worker that takes its work as text, and answers in texts: they travel to any process."""

    def answer(self, task: str) -> Iterator[str]:
        """Do one piece of work; say what was done as it is done."""


def run_here(tasks: list[str], make: Callable[[], Answering]) -> Iterator[str]:
    """Work in this process, on all its cores or its GPU."""
    if tasks:
        worker = make()
        for task in tasks:
            yield from worker.answer(task)


class RayWorker:
    """What an actor of Ray Data runs."""

    def __init__(self, make: Callable[[], Answering]) -> None:
        self._worker = make()

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        for task in batch["task"]:
            for answer in self._worker.answer(str(task)):
                yield {"answer": [answer]}


def run_on_ray(
    tasks: list[str],
    make: Callable[[], Answering],
    *,
    address: str | None,
    workers: int,
    gpus: float,
) -> Iterator[str]:
    """Work in actors of Ray Data: each has a core, or a GPU or a part of one.

    An actor that dies is started again, and does its task again.

    Args:
        address: of a cluster; None starts Ray on this machine.
        workers: most actors.
        gpus: of each actor; 0 for a core.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: the cluster does not answer, or has nothing free.
        MAAGIQAError: what a worker raised.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    if not tasks:
        return
    start(address, workers, gpus=gpus)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = ray.data.from_items(
            [{"task": task} for task in tasks], override_num_blocks=len(tasks)
        )
        resources = {"num_gpus": gpus} if gpus else {"num_cpus": 1}
        done = rows.map_batches(
            RayWorker,
            fn_constructor_args=(make,),
            batch_size=1,
            # One task at a time, else the first actor that runs takes what others should share.
            compute=ray.data.ActorPoolStrategy(
                size=min(workers, len(tasks)), max_tasks_in_flight_per_actor=1
            ),
            **resources,
        )
        for row in done.iter_rows():
            yield row["answer"]
    except RayError as error:
        raise _own(error) from error
    finally:
        ray.shutdown()


def _own(error: BaseException) -> BaseException:
    """Return the error of this package that a worker raised, or else Ray's."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, MAAGIQAError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return error


def start(address: str | None, workers: int, *, gpus: float) -> None:
    """Start Ray here, or join a cluster and see that it has something free.

    Raises:
        UsageError: the cluster does not answer, or has nothing free for a minute.
    """
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)  # its progress would stand between ours
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        # One slot more than actors: with all of them taken Ray Data waits for ever for one to read.
        here = "127.0.0.1"  # nobody else is to reach it
        ray.init(num_cpus=workers + 1, include_dashboard=False, _node_ip_address=here, **quiet)
        return
    if host := re.fullmatch(r"(?:ray://)?([^:/]+|\[[^\]]+\]):(\d+)", address):
        try:
            socket.create_connection((host[1].strip("[]"), int(host[2])), CONNECT_SECONDS).close()
        except OSError as error:
            raise UsageError(
                f"no Ray cluster answers at {address}: {first_line(error)}",
                remedy="check the address, or leave it out to work on this machine",
            ) from error
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster answers at {address}: {first_line(error)}",
            remedy="check the address, or leave it out to work on this machine",
        ) from error
    wanted, least = ("GPU", gpus) if gpus else ("CPU", 1)
    deadline = time.monotonic() + FREE_SECONDS
    while ray.available_resources().get(wanted, 0) < least:
        if time.monotonic() > deadline:
            total = ray.cluster_resources().get(wanted, 0)
            ray.shutdown()
            raise UsageError(
                f"the cluster has no free {wanted}: all {total:g} are taken",
                remedy="wait until other jobs end, or add a machine",
            )
        time.sleep(0.5)


def default_workers(device: str) -> int:
    """Return how many workers this machine takes: one per GPU, else one per core."""
    import torch

    if device in ("auto", "cuda") and torch.cuda.is_available():
        return torch.cuda.device_count()
    return available_cores()
