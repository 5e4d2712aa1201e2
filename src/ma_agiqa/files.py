"""Files that appear whole or not at all, and what tells two of them apart.

A result is written to a temporary sibling, flushed to disk, and moved over the target in
one step, so a reader never meets half a file and a failure leaves the old one in place.
What this file does not do: lock (the last of two writers wins) or write folders.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ma_agiqa.errors import OutputError

LEFTOVER_SECONDS = 24 * 3600.0


def sha256(*paths: str | Path) -> str:
    """Return the sha256 of the bytes of one file, or of several after one another, in hex.

    Raises:
        OSError: a file cannot be read; it names the file.
    """
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`, making its folder if need be.

    Raises:
        OutputError: the disk is full or the place cannot be written.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling that becomes `path` when the block ends well.

    The sibling has the target's suffix, because many writers choose the format by it, and is
    removed when the block fails. A target that is a device or pipe (`/dev/stdout`) is yielded
    itself: there is nothing to replace.

    Raises:
        OutputError: the disk is full or the place cannot be written, here or in the block.
            An OSError of the block that names another file passes unchanged.
    """
    target = Path(os.path.realpath(path))  # through a link, not over it
    device = target.exists() and not target.is_file() and not target.is_dir()
    hidden = f".{target.stem}.{uuid.uuid4().hex[:8]}.tmp{target.suffix}"
    temporary = target if device else target.with_name(hidden)
    try:
        if device:
            yield target
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        with suppress(OSError):  # not every file system lets a folder be flushed
            _flush(target.parent)
    except OSError as error:
        if error.filename not in (None, str(temporary), str(target), str(target.parent)):
            raise
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            path=path,
            remedy="free space or choose another place; nothing was replaced",
        ) from error
    finally:
        if not device:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, *, older_than: float = LEFTOVER_SECONDS) -> None:
    """Remove temporary files of writes that were killed; recent ones may still be written to.

    Args:
        older_than: their age, in seconds.
    """
    for path in folder.glob(".*.tmp*"):
        with suppress(OSError):
            old = time.time() - path.stat().st_mtime > older_than
            if old and re.fullmatch(r"\..*\.[0-9a-f]{8}\.tmp(\..*)?", path.name):
                path.unlink()


def _flush(path: Path) -> None:
    """Ask the system to put a file's content, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
