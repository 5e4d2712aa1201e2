"""A checkpoint of mPLUG-Owl2 as it is published, and images to ask it about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support import owl_checkpoint


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The published layout: 33 pickle shards, their index, config and tokenizer."""
    pytest.importorskip("sentencepiece", reason="needs the extra 'paper'")
    shards = owl_checkpoint.PUBLISHED_SHARDS
    return owl_checkpoint.write(tmp_path / "published", shards=shards, tables=True)


@pytest.fixture
def two_images() -> list[np.ndarray]:
    g = np.random.default_rng(0)
    return [g.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 60), (70, 30))]
