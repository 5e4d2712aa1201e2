"""Decoded training images, kept in memory while they fit.

Decoding costs more than cropping, so each image is decoded once and kept as uint8 at the
size the network sees. What does not fit the limit is decoded again at each use, ahead of
need, in a few threads. An image that cannot be read ends the training with its name before
the first step, not in the middle of the night.

Shapes: H, W the image's own height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ma_agiqa import transforms
from ma_agiqa.config import Preprocess
from ma_agiqa.images import read_image


class TrainingImages:
    """Random access to decoded images by position, uint8, shape (3, H, W).

    Args:
        paths: the image files.
        preprocess: brings each image to the size the network sees.
        device: where the kept images live.
        limit_bytes: how much may be kept; the rest is decoded at each use.
        workers: decoding threads.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        preprocess: Preprocess,
        device: torch.device | str = "cpu",
        limit_bytes: int = 6 << 30,
        workers: int = 2,
    ) -> None:
        self.paths, self.preprocess = [Path(p) for p in paths], preprocess
        self.device = torch.device(device)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._kept: dict[int, Tensor] = {}
        size = 0
        for position, pixels in enumerate(self._pool.map(self._decode, range(len(paths)))):
            size += pixels.numel()
            if size > limit_bytes:
                break
            self._kept[position] = pixels.to(self.device)

    def __len__(self) -> int:
        return len(self.paths)

    def normalise(self, unit: Tensor) -> Tensor:
        """Map pixel values from [0, 1] to the range the network expects."""
        return transforms.from_unit(unit, self.preprocess)

    def batches(self, plan: Sequence[Sequence[int]]) -> Iterator[list[Tensor]]:
        """Yield the images of each planned batch, decoding one batch ahead."""
        ahead = None
        for step in range(len(plan)):
            futures = ahead or [self._fetch(i) for i in plan[step]]
            ahead = [self._fetch(i) for i in plan[step + 1]] if step + 1 < len(plan) else None
            yield [f if isinstance(f, Tensor) else f.result().to(self.device) for f in futures]

    def _fetch(self, position: int):  # type: ignore[no-untyped-def]
        kept = self._kept.get(position)
        return kept if kept is not None else self._pool.submit(self._decode, position)

    def _decode(self, position: int) -> Tensor:
        rgb = transforms.fit(read_image(self.paths[position]), self.preprocess)
        return transforms.to_chw(rgb)
