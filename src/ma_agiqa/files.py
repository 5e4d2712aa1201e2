"""Files and folders that appear whole or not at all, and what keeps two writers apart.

A result is written to a temporary sibling, flushed to disk, and moved over the target in
one step, so a reader never meets half a file and a failure leaves the old one in place. Of two
writers the last one wins, unless they hold a `Lock`.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

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


def remove_leftovers(
    folder: Path, *, of: Path | None = None, older_than: float = LEFTOVER_SECONDS
) -> None:
    """Remove temporary files of writes that were killed; recent ones may still be written to.

    Args:
        of: only those of this target.
        older_than: their age, in seconds.
    """
    wanted = r"\..*\.[0-9a-f]{8}\.tmp(\..*)?"
    if of is not None:
        wanted = rf"\.{re.escape(of.stem)}\.[0-9a-f]{{8}}\.tmp{re.escape(of.suffix)}"
    for path in folder.glob(".*.tmp*"):
        with suppress(OSError):
            old = time.time() - path.stat().st_mtime >= older_than
            if old and re.fullmatch(wanted, path.name):
                path.unlink()


class Lock:
    """Holds a file or folder against other processes until it is released or its process ends.

    The system holds the lock, so a killed process leaves none behind. Where a file system knows no
    locks (some network drives), nothing is held.

    Args:
        place: the file that is going to be written, or the folder, which must be there.

    Raises:
        OutputError: another process holds it, or its folder cannot be written.
    """

    def __init__(self, place: str | Path) -> None:
        place = Path(os.path.realpath(place))
        self._path = place / ".lock" if place.is_dir() else place.with_name(f".{place.name}.lock")
        try:
            self._file = self._path.open("ab")
            while _hold(self._file):
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno())):
                        return
                # Released and removed between our opening and our holding it.
                self._file.close()
                self._file = self._path.open("ab")
        except OSError as error:
            raise OutputError(
                f"cannot be written: {error.strerror}",
                path=place,
                remedy="check permissions or choose another place",
            ) from error
        self._file.close()
        raise OutputError(
            "another run is writing this",
            path=place,
            remedy="wait until it has ended, or choose another place",
        )

    def release(self) -> None:
        """Let others write; a second call does nothing."""
        if not self._file.closed:
            with suppress(OSError):
                self._path.unlink()
            self._file.close()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def lock_folder(folder: Path) -> Lock:
    """Make a folder, if need be, and hold it.

    Raises:
        OutputError: it cannot be made, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot be made: {error.strerror}", path=folder) from error
    return Lock(folder)


def _hold(file: BinaryIO) -> bool:
    """Try to lock an open file without waiting."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
    return True


def replace_folder(fresh: Path, target: Path) -> None:
    """Put the folder `fresh` in the place of `target`, which it may replace, in one step.

    Where the system cannot exchange two names (Windows), `target` is away for a moment, and a
    kill in it leaves the old one as `.NAME-old`: see `recover_folder`.

    Raises:
        OSError: the place cannot be written.
    """
    if not target.exists():
        os.replace(fresh, target)
    elif not _exchange(fresh, target):
        old = target.with_name(f".{target.name}-old")
        os.replace(target, old)
        os.replace(fresh, target)
        shutil.rmtree(old, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Put back what a kill within `replace_folder` left; the caller holds the lock of `target`."""
    old = target.with_name(f".{target.name}-old")
    if old.is_dir() and not target.exists():
        os.replace(old, target)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None
    here = -100 if sys.platform == "linux" else -2  # AT_FDCWD
    name = "renameat2" if sys.platform == "linux" else "renameatx_np"
    call = getattr(libc, name, None)
    if call is None:
        return False
    exchange = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
    result: int = call(here, os.fsencode(one), here, os.fsencode(other), exchange)
    return result == 0


def _flush(path: Path) -> None:
    """Ask the system to put a file's content, or a folder's entries, on the disk."""
    # Windows flushes only what is open for writing, and a folder cannot be.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
