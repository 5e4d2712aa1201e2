"""Prompt -> token ids, by the checkpoint's own sentencepiece model.

Source: the slow LLaMA tokenizer as the official code uses it, and mm_utils.py's
`tokenizer_image_token`. Kept from there: text on either side of the image is tokenised by
itself, so each piece gets sentencepiece's leading space; the first begins with BOS.
Not here: control marks written out in text (`Question` refuses them), decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ma_agiqa.errors import MissingExtraError, ModelError, UsageError
from ma_agiqa.experts.questions import IMAGE_MARK
from ma_agiqa.lmm.mplug_owl2.prompts import IMAGE_TOKEN

BOS = 1


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
