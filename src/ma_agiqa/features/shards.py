"""One shard of a feature store: a data file, then its index.

    shards/WRITER-00003.safetensors   `vectors`, (n, K, D) float16
    shards/WRITER-00003.json          encoder, size and sha256 of the data file, and the
                                      content hash of the image of each row

Each file appears whole (`files.py`) and the index appears last, so a data file without one is
the rest of a write that was cut short, and counts for nothing. No two writers share a name.

Shapes: n rows, K questions, D width.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ma_agiqa.errors import FeatureError
from ma_agiqa.files import sha256, write_atomically

FOLDER = "shards"
DATA, INDEX = ".safetensors", ".json"
VECTORS = "vectors"
_AGAIN = "delete the shard's two files and extract again; only its images are affected"


@dataclass(frozen=True)
class Shard:
    """A shard whose index is complete.

    Attributes:
        data: the data file.
        hashes: content hash of the image of each row.
        size: of the data file, in bytes.
        sha256: of the data file.
    """

    data: Path
    hashes: tuple[str, ...]
    size: int
    sha256: str

    def vectors(self, *, questions: int, width: int) -> Tensor:
        """Return the vectors, mapped into memory, not read: (n, K, D) float16.

        Raises:
            FeatureError: the file is damaged.
        """
        try:
            with safe_open(self.data, framework="pt") as file:
                vectors: Tensor = file.get_tensor(VECTORS)
        except (OSError, SafetensorError) as error:
            raise FeatureError(f"damaged shard: {error}", path=self.data, remedy=_AGAIN) from error
        if tuple(vectors.shape) != (len(self.hashes), questions, width):
            raise FeatureError(
                f"damaged shard: vectors of shape {tuple(vectors.shape)}, expected "
                f"{(len(self.hashes), questions, width)}",
                path=self.data,
                remedy=_AGAIN,
            )
        return vectors

    def check_content(self) -> None:
        """Compare the whole data file with the sha256 in the index.

        Raises:
            FeatureError: it differs.
        """
        try:
            found = sha256(self.data)
        except OSError as error:
            raise FeatureError(
                f"cannot be read: {error.strerror}", path=self.data, remedy=_AGAIN
            ) from error
        if found != self.sha256:
            raise FeatureError(
                f"damaged shard: sha256 {found[:16]}…, the index says {self.sha256[:16]}…",
                path=self.data,
                remedy=_AGAIN,
            )


def write_shard(data: Path, vectors: Tensor, hashes: Sequence[str], *, encoder: str) -> Shard:
    """Write a shard: the data, then the index that makes it count.

    Raises:
        OutputError: the disk is full or the place cannot be written; nothing is left behind.
    """
    content = save({VECTORS: vectors.contiguous()}, metadata={"encoder": encoder})
    shard = Shard(data, tuple(hashes), len(content), hashlib.sha256(content).hexdigest())
    index = {
        "encoder": encoder,
        "size": shard.size,
        "sha256": shard.sha256,
        "rows": list(hashes),
    }
    write_atomically(data, content)
    try:
        write_atomically(data.with_suffix(INDEX), json.dumps(index, indent=0) + "\n")
    except BaseException:
        with suppress(OSError):
            data.unlink(missing_ok=True)
        raise
    return shard


def read_index(index: Path, *, encoder: str) -> Shard:
    """Read the index of a shard and compare the size of the data file.

    Raises:
        FeatureError: the index or the data file is damaged, or of another encoder.
    """
    data = index.with_suffix(DATA)
    try:
        entry = json.loads(index.read_text(encoding="utf-8"))
        shard = Shard(data, tuple(entry["rows"]), int(entry["size"]), str(entry["sha256"]))
        wrong = [row for row in shard.hashes if not re.fullmatch(r"[0-9a-f]{64}", row)]
        found = data.stat().st_size
    except FileNotFoundError as error:
        raise FeatureError("the shard's data file is gone", path=data, remedy=_AGAIN) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FeatureError(f"damaged index: {error!r}", path=index, remedy=_AGAIN) from error
    if entry.get("encoder") != encoder:
        raise FeatureError(
            f"holds vectors of encoder {entry.get('encoder')}, the store is of {encoder}",
            path=index,
            remedy="move it to its own store",
        )
    if found != shard.size or wrong:
        raise FeatureError(
            f"damaged shard: {found} bytes, the index says {shard.size}"
            if not wrong
            else f"damaged index: {wrong[0]!r} is no content hash",
            path=data,
            remedy=_AGAIN,
        )
    return shard
