"""CLIP, SigLIP and SigLIP 2: two towers as a cheap semantic encoder.

There is no conversation here: an image and a text each become a vector of one space. The
vector of an image and a question is the image's unit vector followed by its cosine with the
question's text, so it is D = space + 1 wide, and K questions give K vectors that differ in
their last number alone. A question is best a description ("Good photo.", "{prompt}"); the
official questions work, but nothing was trained to answer them here.

Texts are cut at the length the text tower was trained with (CLIP 77 tokens, SigLIP 64), as is
the custom for CLIP scores, and SigLIP's are padded to it, as in its training.

Shapes: B images, K questions, S width of the common space, D = S + 1.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ma_agiqa.errors import ImageError
from ma_agiqa.lmm import transformers
from ma_agiqa.lmm.encoder import (
    DTYPES,
    DeferredEncoder,
    Question,
    SemanticEncoder,
    check_dtype,
    fingerprint_of,
)
from ma_agiqa.lmm.weights import fingerprint_of_small_files, fingerprint_of_weights, locate
from ma_agiqa.types import RGB


class TowersEncoder:
    """Two frozen towers with their processor.

    Args:
        model: a model of transformers with `get_image_features` and `get_text_features`.
        processor: its own.
        identity: everything vectors depend on besides image and question.
    """

    _model: Any

    def __init__(self, *, model: nn.Module, processor: Any, identity: Mapping[str, Any]) -> None:
        config: Any = model.config
        self._model = model
        self.identity = dict(identity)
        self.width = space_of(config) + 1
        self._processor = processor
        self._text_length = int(config.text_config.max_position_embeddings)
        self._image_inputs = set(inspect.signature(self._model.get_image_features).parameters)
        self._text_inputs = set(inspect.signature(self._model.get_text_features).parameters)
        self._reference = next(model.parameters())
        self._embedded: tuple[tuple[str, ...], Tensor] | None = None

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of `identity`."""
        return fingerprint_of(self.identity)

    @torch.inference_mode()
    def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
        """Return (B, K, D), float32, on the model's device.

        Raises:
            ImageError: an image that the model's preprocessing refuses.
        """
        if not len(images) or not questions:
            return torch.zeros(len(images), len(questions), self.width)
        image_BS = self._image_vectors(images)
        text_KS = self._kept_text_vectors(tuple(question.text for question in questions))
        cosine_BK = image_BS @ text_KS.T
        repeated_BKS = image_BS[:, None].expand(-1, len(questions), -1)
        return torch.cat([repeated_BKS, cosine_BK[..., None]], dim=-1)

    def _image_vectors(self, images: Sequence[RGB]) -> Tensor:
        pictures = [Image.fromarray(image) for image in images]
        try:
            inputs = self._processor.image_processor(images=pictures, return_tensors="pt")
        except (ValueError, ZeroDivisionError) as error:
            raise ImageError(f"the model's preprocessing refuses it: {error}") from error
        return self._unit(
            self._model.get_image_features(**self._placed(inputs, self._image_inputs))
        )

    def _kept_text_vectors(self, texts: tuple[str, ...]) -> Tensor:
        """Embed texts unless they are those of the call before; mostly they are."""
        kept = self._embedded
        if kept is None or kept[0] != texts:
            kept = self._embedded = (texts, self._text_vectors(texts))
        return kept[1]

    def _text_vectors(self, texts: Sequence[str]) -> Tensor:
        """Embed each text by itself: none is padded to the length of another."""
        padding = "max_length" if self._model.config.model_type.startswith("siglip") else False
        vectors = []
        for text in texts:
            inputs = self._processor.tokenizer(
                [text],
                padding=padding,
                truncation=True,
                max_length=self._text_length,
                return_tensors="pt",
            )
            found = self._model.get_text_features(**self._placed(inputs, self._text_inputs))
            vectors.append(self._unit(found))
        return torch.cat(vectors)

    def _placed(self, inputs: Mapping[str, Tensor], accepted: set[str]) -> dict[str, Tensor]:
        device, dtype = self._reference.device, self._reference.dtype
        return {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
            if name in accepted
        }

    @staticmethod
    def _unit(features: Any) -> Tensor:
        """Return unit vectors in float32; transformers 5 wraps them in an output record."""
        vectors = features if isinstance(features, Tensor) else features.pooler_output
        return F.normalize(vectors.float(), dim=-1)


def open_encoder(
    source: str | Path,
    *,
    device: torch.device,
    dtype: str,
    revision: str | None = None,
) -> DeferredEncoder:
    """Describe a model from its files in seconds; weights are read at the first image.

    Raises:
        ModelError: a file is missing or damaged.
        UsageError: an unknown dtype.
        MissingExtraError: transformers is not installed.
    """
    check_dtype(dtype)
    transformers.require_transformers()
    directory = locate(source, revision=revision)
    config = transformers.read_config(directory)
    processor = transformers.read_processor(directory)
    identity = {
        "encoder": f"{config.model_type} of transformers, unit image vector and cosine",
        "weights": fingerprint_of_weights(transformers.open_weights(directory)),
        "dtype": str(DTYPES[dtype]),
        "processor": fingerprint_of_small_files(directory),
        "image_processor": type(processor.image_processor).__name__,
    }

    def load() -> TowersEncoder:
        model = transformers.load_model(directory, "AutoModel", device=device, dtype=DTYPES[dtype])
        return TowersEncoder(model=model, processor=processor, identity=identity)

    return DeferredEncoder(identity=identity, width=space_of(config) + 1, load=load)


def space_of(config: Any) -> int:
    """Return S: CLIP projects into it, SigLIP's towers end in it."""
    if config.model_type == "clip":
        return int(config.projection_dim)
    return int(config.text_config.projection_size)


_checked: type[SemanticEncoder] = TowersEncoder  # the type checker holds it to the protocol
