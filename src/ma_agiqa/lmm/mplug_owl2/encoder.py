"""mPLUG-Owl2 as a `SemanticEncoder`: images and questions in, vectors out.

Shapes: B images, K questions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ma_agiqa import devices
from ma_agiqa.experts.questions import PROMPT, Question
from ma_agiqa.experts.semantic import DeferredEncoder, fingerprint_of
from ma_agiqa.lmm.dtypes import DTYPES, check_dtype
from ma_agiqa.lmm.mplug_owl2 import pixels
from ma_agiqa.lmm.mplug_owl2.checkpoint import CONFIG, fingerprint, open_checkpoint
from ma_agiqa.lmm.mplug_owl2.configuration import parse_config
from ma_agiqa.lmm.mplug_owl2.loading import RELEASED, load_checkpoint
from ma_agiqa.lmm.mplug_owl2.model import MPLUGOwl2, Schedule
from ma_agiqa.lmm.mplug_owl2.tokenizer import Tokenizer
from ma_agiqa.types import RGB

if TYPE_CHECKING:
    from ma_agiqa.experts.semantic import SemanticEncoder


class MPLUGOwl2Encoder:
    """The frozen model with its tokenizer and preprocessing.

    Args:
        weights: fingerprint of the weights, part of the encoder's own.
        load_in: bits of the language model's weights, where they are quantised.
        schedule: "cached" or "official"; both give the same vectors.
    """

    def __init__(
        self,
        *,
        model: MPLUGOwl2,
        tokenizer: Tokenizer,
        weights: str,
        load_in: int | None = None,
        schedule: Schedule = "cached",
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.weights, self.load_in = weights, load_in
        self.schedule: Schedule = schedule

    @classmethod
    def load(
        cls,
        source: str | Path = RELEASED,
        *,
        device: str | torch.device = "cpu",
        dtype: str = "fp16",
        load_in: int | None = None,
        revision: str | None = None,
    ) -> MPLUGOwl2Encoder:
        """Load a checkpoint from a directory or the Hub; see `loading.load`."""
        checkpoint = open_checkpoint(source, revision=revision)
        config = parse_config(checkpoint.config, source=str(checkpoint.directory / CONFIG))
        # The tokenizer first: its errors should not wait for 16 GB of weights.
        tokenizer = Tokenizer(path=checkpoint.tokenizer, vocab_size=config.language.vocab_size)
        model = load_checkpoint(checkpoint, device=device, dtype=dtype, load_in=load_in)
        return cls(
            model=model, tokenizer=tokenizer, weights=fingerprint(checkpoint), load_in=load_in
        )

    @property
    def width(self) -> int:
        """D, the length of one vector."""
        return self.model.width

    @property
    def parts(self) -> dict[str, Any]:
        """The weights, the dtype, the preprocessing and the prompt."""
        dtype = self.model.lm_head.weight.dtype
        return encoder_parts(
            weights=self.weights, dtype=dtype, side=self._side, load_in=self.load_in
        )

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of `parts`."""
        return fingerprint_of(self.parts)

    def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
        """Return (B, K, D), float32, on the model's device.

        Raises:
            ImageError: an image that cannot be used.
            UsageError: a question too long for the model.
        """
        batch = np.zeros((len(images), 3, self._side, self._side), np.float32)
        # On a GPU machine one core could not prepare images as fast as they are encoded.
        with ThreadPoolExecutor(min(len(images), devices.available_cores()) or 1) as pool:
            prepared = pool.map(lambda image: pixels.preprocess(image, side=self._side), images)
            for i, image in enumerate(prepared):
                batch[i] = image
        prompts = [self.tokenizer(question.prompt) for question in questions]
        return self.model.pooled(torch.from_numpy(batch), prompts, schedule=self.schedule)

    @property
    def _side(self) -> int:
        return self.model.config.vision.image_size


def encoder_parts(
    *, weights: str, dtype: torch.dtype, side: int, load_in: int | None = None
) -> dict[str, Any]:
    """Return what vectors depend on besides image and question, as JSON data."""
    parts = {
        "encoder": "mplug_owl2, mean over all positions",
        "weights": weights,
        "dtype": str(dtype),
        "preprocessing": [list(pixels.MEAN), list(pixels.STD), list(pixels.PADDING), side],
        "prompt": PROMPT,
    }
    # Named only where it is the case: stores from before keep their fingerprint.
    return parts if load_in is None else {**parts, "load_in": load_in}


def deferred(
    source: str | Path = RELEASED,
    *,
    device: str | torch.device = "cpu",
    dtype: str = "fp16",
    load_in: int | None = None,
    revision: str | None = None,
) -> DeferredEncoder:
    """Describe a checkpoint from its files in seconds; weights are read at the first image.

    Raises:
        ModelError: a file is missing, damaged or of another model.
        UsageError: an unknown dtype.
    """
    check_dtype(dtype)
    checkpoint = open_checkpoint(source, revision=revision)
    config = parse_config(checkpoint.config, source=str(checkpoint.directory / CONFIG))
    parts = encoder_parts(
        weights=fingerprint(checkpoint),
        dtype=DTYPES[dtype],
        side=config.vision.image_size,
        load_in=load_in,
    )
    return DeferredEncoder(
        parts=parts,
        width=config.language.hidden_size,
        load=lambda: MPLUGOwl2Encoder.load(
            checkpoint.directory, device=device, dtype=dtype, load_in=load_in
        ),
    )


if TYPE_CHECKING:  # the type checker holds the encoders to the protocol
    _checked: type[SemanticEncoder] = MPLUGOwl2Encoder
    _checked_too: type[SemanticEncoder] = DeferredEncoder
