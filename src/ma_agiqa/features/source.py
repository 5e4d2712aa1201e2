"""Where the semantic vectors of an image come from, and by which key an image is found.

    content_hash, key_of, ...   the key of an image: its content, not its name
    vectors_of                  stored vectors of all images of a data set, to train or judge
    StoredSemantics             a feature store as the source of vectors while scoring
    EncodedSemantics            an LMM as that source, on the fly

A key is a hash of the file's bytes, not of its pixels, because that needs no decoding: a folder
of 20,000 images is recognised in seconds, and a file that is renamed or copied stays the same
image. The same pixels in another file format count as another image.

Both sources give the same values: what is computed on the fly is rounded to float16 too, as the
store does and the official code did. What is left is the rounding of another batch in the LMM.

Shapes: n images, B images of a batch, K questions, D width.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ma_agiqa.config import ModelConfig
from ma_agiqa.data.samples import Samples
from ma_agiqa.data.splits import PROMPT
from ma_agiqa.errors import DataError, FeatureError, ImageError, UsageError
from ma_agiqa.features.store import DTYPE, FeatureStore
from ma_agiqa.images import read_bytes
from ma_agiqa.lmm.encoder import (
    Question,
    SemanticEncoder,
    diff_identity,
    encode_with_prompts,
    fingerprint_of,
    from_record,
    open_encoder,
    quote_prompts,
    recorded_settings,
)
from ma_agiqa.text import join_some
from ma_agiqa.types import RGB


def content_hash(data: bytes) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def key_of(sha256: str, prompt: str | None) -> str:
    """Return the key under which a store has the vectors of an image.

    Where questions quote the prompt of the image, the same image with another prompt has other
    vectors, so the prompt is part of the key; else the key is the content hash itself.
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


def questions_of(store: FeatureStore, config: ModelConfig | None) -> tuple[Question, ...]:
    """Return the questions to take vectors of, in order: the model's, or the store's."""
    if config is None or not config.questions:
        return store.header.questions
    return from_record(config.questions, source=config.name)


def keys_of(store: FeatureStore, samples: Samples) -> list[str]:
    """Return the key of each image in the store.

    Raises:
        DataError: the store's questions quote prompts and the data set has none.
    """
    hashes = hash_files(samples.path)
    if not store.header.quotes_prompts:
        return hashes
    if PROMPT not in samples.groups:
        raise DataError(
            f"{samples.dataset} has no prompts, and the questions of {store.path} quote them",
            remedy="--prompt-column NAME",
        )
    return [key_of(sha, words) for sha, words in zip(hashes, samples.groups[PROMPT], strict=True)]


def vectors_of(
    store: FeatureStore | None, samples: Samples, *, config: ModelConfig | None = None
) -> Tensor | None:
    """Return the vectors of all images, (n, K, D) float16; None without a store.

    Args:
        config: of the model to be fine-tuned, whose questions count.

    Raises:
        FeatureError: images are not in the store, or their vectors are not finite; the first
            few are named.
    """
    if store is None:
        return None
    hashes = keys_of(store, samples)
    absent = set(store.missing(hashes))
    if absent:
        names = [n for n, sha in zip(samples.name, hashes, strict=True) if sha in absent]
        raise FeatureError(
            f"has no vectors of {len(names)} of {len(samples)} images of {samples.dataset}: "
            f"{join_some(names)}{store.damage()}",
            path=store.path,
            remedy="run `ma-agiqa extract` again, it adds what is missing",
        )
    vectors = store.get(hashes, questions=questions_of(store, config))
    finite = vectors.isfinite().flatten(1).all(1).tolist()
    if not all(finite):
        names = [name for name, good in zip(samples.name, finite, strict=True) if not good]
        raise FeatureError(
            f"vectors of {len(names)} of {len(samples)} images of {samples.dataset} hold NaN or "
            f"infinity: {join_some(names)}",
            path=store.path,
            remedy="the store was written by something else or damaged: extract into a new one",
        )
    return vectors


class SemanticSource(Protocol):
    """Gives the vectors of images, in two steps: per image in threads, then per batch."""

    @property
    def fingerprint(self) -> str:
        """Of the encoder the vectors are of."""
        ...

    @property
    def needs_hash(self) -> bool:
        """Whether `prepare` needs the content hash of the image's file."""
        ...

    @property
    def quotes_prompts(self) -> bool:
        """Whether `prepare` needs the prompt that the image was generated from."""
        ...

    def prepare(self, rgb: RGB, sha256: str | None, prompt: str | None = None) -> Any:
        """Return what `collect` will want for this image; called in many threads.

        Args:
            sha256: content hash of the image's file, None if it has none.
            prompt: what it was generated from, None if not known.

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
        self.quotes_prompts = store.header.quotes_prompts

    def prepare(self, rgb: RGB, sha256: str | None, prompt: str | None = None) -> Tensor:
        """Return the vectors of one image, (K, D)."""
        prompt = _require_prompt(prompt) if self.quotes_prompts else None
        if sha256 is None:
            raise ImageError(
                "stored features belong to files, and this image was given as data",
                remedy="give its path or its file's bytes, or compute features with an LMM",
            )
        key = key_of(sha256, prompt)
        if not self._store.has(key):
            other = "" if prompt is None else f" with the prompt {prompt!r}"
            raise ImageError(
                f"no semantic features of this image{other} in {self._store.path}"
                f"{self._store.damage()}",
                remedy="`ma-agiqa extract` adds them",
            )
        try:
            return self._store.get([key], questions=self._questions)[0]
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
        self.quotes_prompts = quote_prompts(questions)

    def prepare(
        self, rgb: RGB, sha256: str | None, prompt: str | None = None
    ) -> tuple[RGB, str | None]:
        """Return the image itself, and its prompt if a question quotes it."""
        return rgb, _require_prompt(prompt) if self.quotes_prompts else None

    def collect(self, prepared: Sequence[tuple[RGB, str | None]]) -> Tensor:
        """Return (B, K, D) float32, each value one that float16 has."""
        images, prompts = zip(*prepared, strict=True)
        vectors = encode_with_prompts(self._encoder, images, self._questions, prompts)
        return vectors.to(getattr(torch, DTYPE)).float()


def _require_prompt(prompt: str | None) -> str:
    if prompt is None or not prompt.strip():
        raise ImageError(
            "a question of this model quotes the words that generated the image, and they are "
            "not known",
            remedy="give them with --prompt, or as the prompt column of a data set",
        )
    return prompt


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
            remedy="--lmm NAME|DIR computes them, --store DIR (not in `serve`) has extracted ones",
        )
    questions = from_record(config.questions, source=config.name)
    if store is not None:
        opened = FeatureStore.open(store)
        if config.encoder:
            opened.header.require_encoder(config.encoder, source=opened.path)
        opened.header.columns_of(questions, source=opened.path)
        return StoredSemantics(opened, questions)

    assert lmm is not None
    settings = recorded_settings(config.encoder)
    if dtype is not None:
        settings["dtype"] = dtype
    encoder = open_encoder(lmm, device=device, **settings)
    if config.encoder and encoder.fingerprint != fingerprint_of(config.encoder):
        raise FeatureError(
            f"is encoder {encoder.fingerprint}, {config.name} was trained on vectors of "
            f"{fingerprint_of(config.encoder)} ({diff_identity(config.encoder, encoder.identity)})",
            path=lmm,
            remedy="give the LMM the model was trained with",
        )
    return EncodedSemantics(encoder, questions)
