"""mPLUG-Owl2 as a `SemanticEncoder`: images and questions in, vectors out.

Shapes: B images, K questions, D width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ma_agiqa.experts.questions import PROMPT, Question
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
        schedule: "cached" or "official"; both give the same vectors.
    """

    def __init__(
        self,
        *,
        model: MPLUGOwl2,
        tokenizer: Tokenizer,
        weights: str,
        schedule: Schedule = "cached",
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.weights = weights
        self.schedule: Schedule = schedule

    @classmethod
    def load(
        cls,
        source: str | Path = RELEASED,
        *,
        device: str | torch.device = "cpu",
        dtype: str = "fp16",
        revision: str | None = None,
    ) -> MPLUGOwl2Encoder:
        """Load a checkpoint from a directory or the Hub; see `loading.load`."""
        checkpoint = open_checkpoint(source, revision=revision)
        config = parse_config(checkpoint.config, source=str(checkpoint.directory / CONFIG))
        # The tokenizer first: its errors should not wait for 16 GB of weights.
        tokenizer = Tokenizer(path=checkpoint.tokenizer, vocab_size=config.language.vocab_size)
        model = load_checkpoint(checkpoint, device=device, dtype=dtype)
        return cls(model=model, tokenizer=tokenizer, weights=fingerprint(checkpoint))

    @property
    def width(self) -> int:
        """D, the length of one vector."""
        return self.model.width

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the weights, the dtype, the preprocessing and the prompt."""
        parts = {
            "encoder": "mplug_owl2, mean over all positions",
            "weights": self.weights,
            "dtype": str(self.model.lm_head.weight.dtype),
            "preprocessing": [pixels.MEAN, pixels.STD, pixels.PADDING, self._side],
            "prompt": PROMPT,
        }
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
        """Return (B, K, D), float32, on the model's device.

        Raises:
            ImageError: an image that cannot be used.
            UsageError: a question too long for the model.
        """
        batch = np.zeros((len(images), 3, self._side, self._side), np.float32)
        for i, image in enumerate(images):
            batch[i] = pixels.preprocess(image, side=self._side)
        prompts = [self.tokenizer(question.prompt) for question in questions]
        return self.model.pooled(torch.from_numpy(batch), prompts, schedule=self.schedule)

    @property
    def _side(self) -> int:
        return self.model.config.vision.image_size


if TYPE_CHECKING:  # the type checker holds the encoder to the protocol
    _checked: type[SemanticEncoder] = MPLUGOwl2Encoder
