"""Images by their content: a file that is renamed or copied stays the same image.

The hash is of the file's bytes, not of its pixels, because that needs no decoding: a folder
of 20,000 images is recognised in seconds. The same pixels in another file format count as
another image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ma_agiqa.images import read_bytes


def content_hash(data: bytes) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def key_of(sha256: str, prompt: str | None) -> str:
    """Return what vectors of an image are found by in a store.

    Where questions quote the words that generated the image, one image with other words has
    other vectors, so the words count too; else the key is the content hash itself.
    """
    if prompt is None:
        return sha256
    return hashlib.sha256(f"{sha256}\n{prompt}".encode()).hexdigest()


def hash_source(source: object) -> str | None:
    """Return the content hash of a path or of a file's bytes; None for an image in memory.

    Raises:
        ImageError: the file cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        return content_hash(read_bytes(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return content_hash(bytes(source))
    return None


def hash_files(paths: Sequence[str | Path], *, workers: int = 4) -> list[str]:
    """Return the content hash of each file, in order.

    Raises:
        ImageError: a file cannot be read.
    """
    with ThreadPoolExecutor(workers) as pool:  # reading and hashing release the interpreter
        return list(pool.map(lambda path: content_hash(read_bytes(path)), paths))
