"""mPLUG-Owl2 as a `SemanticEncoder`: text to token ids, image to pixels, both to vectors.

Source: getFeature.py and mm_utils.py of the official code, the slow LLaMA tokenizer, and the
CLIPImageProcessor of the released checkpoint.
Kept from there: the text on either side of the image is tokenised by itself, so each piece gets
sentencepiece's leading space, and the first begins with BOS; the image is padded to a square with
a colour that is the mean cut to integers, and an odd rest of padding goes to the right and to the
bottom.
Not here: control marks written out in text (`Question` refuses them), decoding.

Shapes: B images, K questions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ma_agiqa import devices
from ma_agiqa.errors import ImageError, MissingExtraError, ModelError, UsageError
from ma_agiqa.lmm.encoder import (
    DTYPES,
    IMAGE_MARK,
    PROMPT,
    DeferredEncoder,
    Question,
    SemanticEncoder,
    check_dtype,
    check_quantisation,
    fingerprint_of,
)
from ma_agiqa.lmm.mplug_owl2.checkpoint import load_checkpoint, parse_config
from ma_agiqa.lmm.mplug_owl2.model import IMAGE_TOKEN, MPLUGOwl2, Schedule
from ma_agiqa.lmm.weights import CONFIG, fingerprint_of_weights, open_checkpoint
from ma_agiqa.types import RGB

BOS = 1

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PADDING = (122, 116, 104)
MAX_SIDE = 16384  # a padded square of this side takes 0.8 GB

# Every channel has 256 possible values: normalise those, then look them up.
_GREY = (np.arange(256) * (1 / 255)).astype(np.float32)
_LEVELS = np.stack(
    [(_GREY - np.float32(m)) / np.float32(s) for m, s in zip(MEAN, STD, strict=True)]
)


def image_prompt_ids(prompt: str, encode: Callable[[str], list[int]]) -> list[int]:
    """Return BOS, the text before the image, -200, the text after it.

    Args:
        encode: ids of a piece of text, without BOS.

    Raises:
        UsageError: the prompt has no image mark or more than one.
    """
    pieces = prompt.split(IMAGE_MARK)
    if len(pieces) != 2:
        raise UsageError(
            f"a prompt needs exactly one {IMAGE_MARK}, found {len(pieces) - 1} in {prompt!r}"
        )
    before, after = (encode(piece) for piece in pieces)
    return [BOS, *before, IMAGE_TOKEN, *after]


class Tokenizer:
    """The `tokenizer.model` of a checkpoint.

    Args:
        vocab_size: what the language model has embeddings for.

    Raises:
        ModelError: the file is missing, damaged or of another model.
        MissingExtraError: sentencepiece is not installed.
    """

    def __init__(self, *, path: Path, vocab_size: int) -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise MissingExtraError("sentencepiece", "paper") from error
        if not path.is_file():
            raise ModelError("not found", path=path, remedy="download the checkpoint again")
        try:
            self._pieces = SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise ModelError(
                f"not a sentencepiece model: {error}", path=path, remedy="download it again"
            ) from error
        size, bos = self._pieces.vocab_size(), self._pieces.bos_id()
        if (size, bos) != (vocab_size, BOS):
            raise ModelError(
                f"has {size} pieces and BOS {bos}, the model expects {vocab_size} and {BOS}",
                path=path,
                remedy="take the tokenizer.model of the same checkpoint",
            )

    def __call__(self, prompt: str) -> list[int]:
        """Return the ids of a prompt with one image mark; see `image_prompt_ids`."""
        return image_prompt_ids(prompt, self._pieces.encode)


def preprocess(image: RGB, *, side: int) -> NDArray[np.float32]:
    """Return the normalised image, (H, W, 3) uint8 -> (3, side, side) float32.

    Raises:
        ImageError: the array is no RGB image, is empty, or is too long to be padded.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ImageError(f"expected a uint8 array (H, W, 3), got {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer > MAX_SIDE:
        raise ImageError(f"{width} x {height} pixels exceed {MAX_SIDE} on the longer side")
    square = Image.fromarray(image)
    if height != width:
        canvas = Image.new("RGB", (longer, longer), PADDING)
        canvas.paste(square, ((longer - width) // 2, (longer - height) // 2))
        square = canvas
    resized = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))
    return np.stack([_LEVELS[c][resized[:, :, c]] for c in range(3)])


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
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str = "fp16",
        load_in: int | None = None,
        revision: str | None = None,
    ) -> MPLUGOwl2Encoder:
        """Load a checkpoint from a directory or the Hub; see `load_checkpoint`."""
        checkpoint = open_checkpoint(source, revision=revision)
        config = parse_config(checkpoint.config, source=str(checkpoint.directory / CONFIG))
        # The tokenizer first: its errors should not wait for 16 GB of weights.
        tokenizer = Tokenizer(path=checkpoint.tokenizer, vocab_size=config.language.vocab_size)
        model = load_checkpoint(checkpoint, device=device, dtype=dtype, load_in=load_in)
        return cls(
            model=model,
            tokenizer=tokenizer,
            weights=fingerprint_of_weights(checkpoint),
            load_in=load_in,
        )

    @property
    def width(self) -> int:
        """D, the length of one vector."""
        return self.model.width

    @property
    def identity(self) -> dict[str, Any]:
        """The weights, the dtype, the preprocessing and the prompt."""
        dtype = self.model.lm_head.weight.dtype
        return identity_of(weights=self.weights, dtype=dtype, side=self._side, load_in=self.load_in)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of `identity`."""
        return fingerprint_of(self.identity)

    def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
        """Return (B, K, D), float32, on the model's device.

        Raises:
            ImageError: an image that cannot be used.
            UsageError: a question too long for the model.
        """
        batch = np.zeros((len(images), 3, self._side, self._side), np.float32)
        # On a GPU machine one core could not prepare images as fast as they are encoded.
        with ThreadPoolExecutor(min(len(images), devices.available_cores()) or 1) as pool:
            prepared = pool.map(lambda image: preprocess(image, side=self._side), images)
            for i, image in enumerate(prepared):
                batch[i] = image
        prompts = [self.tokenizer(question.prompt) for question in questions]
        return self.model.pooled(torch.from_numpy(batch), prompts, schedule=self.schedule)

    @property
    def _side(self) -> int:
        return self.model.config.vision.image_size


def identity_of(
    *, weights: str, dtype: torch.dtype, side: int, load_in: int | None = None
) -> dict[str, Any]:
    """Return what vectors depend on besides image and question, as JSON data."""
    identity = {
        "encoder": "mplug_owl2, mean over all positions",
        "weights": weights,
        "dtype": str(dtype),
        "preprocessing": [list(MEAN), list(STD), list(PADDING), side],
        "prompt": PROMPT,
    }
    # Named only where it is the case: stores from before keep their fingerprint.
    return identity if load_in is None else {**identity, "load_in": load_in}


def open_encoder(
    source: str | Path,
    *,
    device: torch.device,
    dtype: str,
    load_in: int | None = None,
    revision: str | None = None,
) -> DeferredEncoder:
    """Describe a checkpoint from its files in seconds; weights are read at the first image.

    Raises:
        ModelError: a file is missing, damaged or of another model.
        UsageError: an unknown dtype, or quantisation that is not possible here.
        MissingExtraError: bitsandbytes is not installed.
    """
    check_quantisation(load_in, device=device)
    check_dtype(dtype)
    checkpoint = open_checkpoint(source, revision=revision)
    config = parse_config(checkpoint.config, source=str(checkpoint.directory / CONFIG))
    identity = identity_of(
        weights=fingerprint_of_weights(checkpoint),
        dtype=DTYPES[dtype],
        side=config.vision.image_size,
        load_in=load_in,
    )
    return DeferredEncoder(
        identity=identity,
        width=config.language.hidden_size,
        load=lambda: MPLUGOwl2Encoder.load(
            checkpoint.directory, device=device, dtype=dtype, load_in=load_in
        ),
    )


_checked: type[SemanticEncoder] = MPLUGOwl2Encoder  # the type checker holds it to the protocol
