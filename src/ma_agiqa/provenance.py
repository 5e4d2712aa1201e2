"""Where a number comes from: machine, versions, commit, date.

Everything is looked up when asked and may be unknown (None); nothing heavy is imported for
it: a GPU is named only when torch is loaded already.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from ma_agiqa.version import __version__

PACKAGES = ("torch", "numpy", "scipy", "pillow", "pyarrow")
"""Distributions whose versions can change a number."""


@dataclass(frozen=True)
class Environment:
    """What a result was made with.

    Attributes:
        hardware: processor, usable cores, and the GPU if torch sees one.
        versions: of this package, Python and the installed `PACKAGES`.
        commit: of this package's repository, with `+dirty` when tracked files differ from
            it; None when the package does not run from a checkout.
        date: UTC, ISO 8601, to the second.
    """

    hardware: str
    versions: dict[str, str]
    commit: str | None
    date: str


def environment() -> Environment:
    """Return the environment of this process."""
    return Environment(
        hardware=hardware(),
        versions=versions(),
        commit=commit(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def hardware() -> str:
    """Return processor model and usable cores, then the GPU: `Xeon, 2 cores; NVIDIA H100`."""
    cores = available_cores()
    machine = f"{_processor()}, {cores} core{'' if cores == 1 else 's'}"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        machine += f"; {torch.cuda.get_device_name()}"
    return machine


def available_cores() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of this package, Python and each of `PACKAGES` that is installed."""
    found = {"ma-agiqa": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of the checkout this package runs from, `+dirty` if changed."""
    package = Path(__file__).resolve().parent
    top = _git("rev-parse", "--show-toplevel", at=package)
    # An environment may lie inside some other project's repository: that commit is not ours.
    if not top or Path(top).resolve() / "src" / "ma_agiqa" != package:
        return None
    head = _git("rev-parse", "HEAD", at=package)
    if not head:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no", at=package)
    return f"{head}+dirty" if changed else head


def _git(*arguments: str, at: Path) -> str | None:
    """Return git's output, or None when there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(at), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    """Return the processor's model name, or its architecture where the system hides it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
