"""Where a network with semantics gets its vectors from while scoring.

    StoredSemantics    a feature store, by the content of the image file
    EncodedSemantics   an LMM, on the fly

Both give the same values: what is computed on the fly is rounded to float16 too, as the store
does and the official code did. What is left is the rounding of another batch in the LMM.

Shapes: B images, K questions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ma_agiqa.config import ModelConfig
from ma_agiqa.errors import FeatureError, ImageError, UsageError
from ma_agiqa.experts.questions import Question, from_record
from ma_agiqa.experts.semantic import SemanticEncoder, difference, fingerprint_of
from ma_agiqa.features.header import DTYPE
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.types import RGB

ROUNDED = getattr(torch, DTYPE)


class SemanticSource(Protocol):
    """Gives the vectors of images, in two steps: per image in threads, then per batch."""

    @property
    def fingerprint(self) -> str:
        """Of the encoder the vectors are of."""
        ...

    @property
    def needs_hash(self) -> bool:
        """Whether `prepare` must be told the content hash of the image's file."""
        ...

    def prepare(self, rgb: RGB, sha256: str | None) -> Any:
        """Return what `collect` will want for this image; called in many threads.

        Raises:
            ImageError: there can be no vectors of this image.
        """
        ...

    def collect(self, prepared: Sequence[Any]) -> Tensor:
        """Return the vectors of a batch, (B, K, D) float32.

        Raises:
            ImageError: an image cannot be used; no vector of the batch is returned.
        """
        ...


class StoredSemantics:
    """Vectors from a feature store."""

    needs_hash = True

    def __init__(self, store: FeatureStore, questions: Sequence[Question]) -> None:
        self._store, self._questions = store, questions
        self.fingerprint = store.header.fingerprint

    def prepare(self, rgb: RGB, sha256: str | None) -> Tensor:
        """Return the vectors of one image, (K, D)."""
        if sha256 is None:
            raise ImageError(
                "stored features belong to files, and this image was given as data",
                remedy="give its path or its file's bytes, or compute features with an LMM",
            )
        if not self._store.has(sha256):
            raise ImageError(
                f"no semantic features of this image in {self._store.path}",
                remedy="`ma-agiqa extract` adds them",
            )
        try:
            return self._store.get([sha256], questions=self._questions)[0]
        except FeatureError as error:
            raise ImageError(f"no semantic features: {error}") from error

    def collect(self, prepared: Sequence[Tensor]) -> Tensor:
        """Return (B, K, D) float32."""
        return torch.stack(list(prepared)).float()


class EncodedSemantics:
    """Vectors from an encoder."""

    needs_hash = False

    def __init__(self, encoder: SemanticEncoder, questions: Sequence[Question]) -> None:
        self._encoder, self._questions = encoder, questions
        self.fingerprint = encoder.fingerprint

    def prepare(self, rgb: RGB, sha256: str | None) -> RGB:
        """Return the image itself."""
        return rgb

    def collect(self, prepared: Sequence[RGB]) -> Tensor:
        """Return (B, K, D) float32, each value one that float16 has."""
        vectors = self._encoder.encode(prepared, self._questions)
        return vectors.to(ROUNDED).float()


def open_source(
    config: ModelConfig,
    *,
    store: str | Path | None = None,
    lmm: str | Path | None = None,
    device: str = "auto",
    dtype: str | None = None,
) -> SemanticSource | None:
    """Return the source of vectors for a model, checked against what it was trained on.

    Args:
        store: folder of a feature store.
        lmm: name, directory or Hub id of an LMM; its weights are read at the first image.
        dtype: of the LMM; the one of the training vectors when None.

    Raises:
        UsageError: the model takes vectors and there is no source, or two, or it takes none.
        FeatureError: the source is of another encoder, or lacks a question of the model's.
    """
    given = [f"--{name}" for name, value in (("store", store), ("lmm", lmm)) if value is not None]
    if not config.questions:
        if given:
            raise UsageError(f"{config.name} takes no semantic features: leave out {given[0]}")
        return None
    if len(given) != 1:
        raise UsageError(
            f"{config.name} needs semantic features ({', '.join(config.questions)}) from one "
            f"source, given {' and '.join(given) or 'none'}",
            remedy="--lmm NAME|DIR computes them, --store DIR takes extracted ones",
        )
    questions = from_record(config.questions, source=config.name)
    if store is not None:
        opened = FeatureStore.open(store)
        if config.encoder:
            opened.header.require_encoder(config.encoder, source=opened.path)
        opened.header.columns_of(questions, source=opened.path)
        return StoredSemantics(opened, questions)

    from ma_agiqa.lmm.encoders import dtype_name, open_encoder

    assert lmm is not None
    encoder = open_encoder(
        lmm, device=device, dtype=dtype or dtype_name(config.encoder.get("dtype"))
    )
    if config.encoder and encoder.fingerprint != fingerprint_of(config.encoder):
        raise FeatureError(
            f"is encoder {encoder.fingerprint}, {config.name} was trained on vectors of "
            f"{fingerprint_of(config.encoder)} ({difference(config.encoder, encoder.parts)})",
            path=lmm,
            remedy="give the LMM the model was trained with",
        )
    return EncodedSemantics(encoder, questions)
