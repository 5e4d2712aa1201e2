"""Any image-and-text model that transformers loads, as a `SemanticEncoder`.

Such a model is loaded by `AutoModelForImageTextToText` and has a chat template: LLaVA, Qwen-VL,
InternVL, SmolVLM, Gemma 3 and others. The prompt is the model's own template with one user turn:
the question, then the image, as in the paper; templates that put images first do so here too.

Vectors are means of the base model's states; the language head is not computed. Images are
never padded to one size: images whose inputs have the same shapes are encoded together, others
alone, so no vector depends on its batch beyond rounding. The vision tower sees an image once for
all questions where the family's forward takes its output (`mm_encoder_outputs`), else once per
question.

Loading is strict. It never runs code of a checkpoint (`trust_remote_code` stays off), never
reads pickles, and never leaves a weight at its random start.

Shapes: B images, K questions, L positions, D width.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ma_agiqa import devices
from ma_agiqa.errors import ImageError, MissingExtraError, ModelError, UsageError, first_line
from ma_agiqa.lmm.encoder import (
    ALL,
    DTYPES,
    LAST,
    DeferredEncoder,
    Question,
    SemanticEncoder,
    check_dtype,
    check_quantisation,
    fingerprint_of,
)
from ma_agiqa.lmm.weights import (
    SAFETENSORS,
    Checkpoint,
    fingerprint_of_small_files,
    fingerprint_of_weights,
    locate,
    open_checkpoint,
)
from ma_agiqa.text import join_some
from ma_agiqa.types import RGB

AUTO_CLASS = "AutoModelForImageTextToText"
LAYOUT = "user: question, image; generation prompt"
NO_TOKEN = -1  # no token has this id
MOST_LAYERS = 1000  # of any model there is; more would be built for minutes

Inputs = dict[str, Tensor]


class TransformersEncoder:
    """A frozen model with its processor.

    Args:
        model: an image-and-text model of transformers, in eval mode.
        processor: its own, with a chat template.
        identity: everything vectors depend on besides image and question.
        dtype: of the model's inputs.
        layer: 0 for the embeddings, n for the output of the n-th layer; the last one is
            taken after the final norm.
        pool: which positions are averaged; one of `POOLS`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        processor: Any,
        identity: Mapping[str, Any],
        dtype: torch.dtype,
        layer: int,
        pool: str,
    ) -> None:
        check_pool(pool)
        config: Any = model.config
        self.identity = dict(identity)
        language = config.get_text_config()
        self.width = int(language.hidden_size)
        self._processor, self._layer, self._pool = processor, layer, pool
        self._is_last = layer == int(language.num_hidden_layers)
        # The model without its language head, so that no logits are computed; where a family
        # has no such part, the whole model with logits of one position.
        self._base: Any = getattr(model, "base_model", model)
        self._whole = self._base is model
        self._device = next(model.parameters()).device
        self._dtype = dtype
        token = image_token_of(config)
        self._image_token = NO_TOKEN if token is None else token
        parameters = inspect.signature(self._base.forward).parameters
        self._accepted = set(parameters)
        self._takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._vision = shared_vision_inputs(self._base, self._accepted)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of `identity`."""
        return fingerprint_of(self.identity)

    @torch.inference_mode()
    def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
        """Return (B, K, D), float32, on the model's device.

        Raises:
            ImageError: an image that the model's preprocessing refuses.
            UsageError: a question that holds one of the model's marks.
        """
        vectors = torch.zeros(len(images), len(questions), self.width, device=self._device)
        if not len(images) or not questions:
            return vectors
        groups: dict[object, list[int]] = defaultdict(list)
        asked = [[self._inputs(image, question) for question in questions] for image in images]
        for i, inputs in enumerate(asked):
            groups[tuple(map(_shapes, inputs))].append(i)
        for members in groups.values():
            batches = [_joined([asked[i][k] for i in members]) for k in range(len(questions))]
            try:
                vectors[members] = self._pooled(batches)
            except (IndexError, KeyError, TypeError, ValueError) as error:
                # What a configuration asks for that the network does not have.
                raise ModelError(f"it cannot be run: {first_line(error)}") from error
        return vectors

    def _pooled(self, batches: Sequence[Inputs]) -> Tensor:
        """Return the vectors of images that fit together; one batch per question, (B, K, D)."""
        batches = [{name: self._placed(t) for name, t in batch.items()} for batch in batches]
        seen: dict[str, Any] = {}
        if self._vision:
            own = {name: batches[0][name] for name in self._vision if name in batches[0]}
            features = self._base.get_image_features(**own, return_dict=True)
            seen = {"mm_encoder_outputs": {"image": features}}
            drop = ("pixel_values", "pixel_attention_mask")
            batches = [{n: t for n, t in batch.items() if n not in drop} for batch in batches]
        return torch.stack([self._means(batch, seen) for batch in batches], dim=1)

    def _means(self, batch: Inputs, seen: Mapping[str, Any]) -> Tensor:
        inputs = {n: t for n, t in batch.items() if self._takes_more or n in self._accepted}
        needs_all = self._whole or not self._is_last
        head = {"logits_to_keep": 1} if "logits_to_keep" in self._accepted else {}
        outputs = self._base(
            **inputs,
            **seen,
            **head,
            output_hidden_states=needs_all,
            use_cache=False,
            return_dict=True,
        )
        states = outputs.hidden_states[self._layer] if needs_all else outputs.last_hidden_state
        if states.shape[-1] != self.width:
            raise ModelError(f"its states are {states.shape[-1]} wide, expected {self.width}")
        chosen = positions(
            self._pool,
            present_BL=batch["attention_mask"].bool(),
            image_BL=torch.eq(batch["input_ids"], self._image_token),
        )
        return mean_over(states, chosen)

    def _inputs(self, image: RGB, question: Question) -> Inputs:
        """Return what the model wants for one image and question, a batch of one."""
        self._check_question(question)
        content = [
            {"type": "text", "text": question.text},
            {"type": "image", "image": Image.fromarray(image)},
        ]
        try:
            inputs = self._processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        except (ValueError, ZeroDivisionError) as error:
            raise ImageError(f"the model's preprocessing refuses it: {error}") from error
        except Exception as error:  # a template is a program: it fails in any way it likes
            raise ModelError(f"its chat template fails: {first_line(error)}") from error
        return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}

    def _check_question(self, question: Question) -> None:
        marks = {*self._processor.tokenizer.all_special_tokens}
        marks.add(str(getattr(self._processor, "image_token", "")))
        found = sorted(mark for mark in marks if mark and mark in question.text)
        if found:
            raise UsageError(
                f"question {question.name!r} contains {', '.join(found)}, a mark of this model",
                remedy="write the question alone; the template adds the image",
            )

    def _placed(self, tensor: Tensor) -> Tensor:
        dtype = self._dtype if tensor.is_floating_point() else None
        return tensor.to(device=self._device, dtype=dtype)


def open_encoder(
    source: str | Path,
    *,
    device: torch.device,
    dtype: str,
    layer: int = LAST,
    pool: str = ALL,
    load_in: int | None = None,
    revision: str | None = None,
) -> DeferredEncoder:
    """Describe a model from its files in seconds; weights are read at the first image.

    Raises:
        ModelError: a file is missing or damaged, or the model is of no use here.
        UsageError: an unknown dtype, layer or pool, or quantisation that is not possible here.
        MissingExtraError: transformers or bitsandbytes is not installed.
    """
    check_dtype(dtype)
    check_pool(pool)
    require_transformers()
    check_quantisation(load_in, device=device)
    directory = locate(source, revision=revision)
    config = read_config(directory)
    require_kind(config, directory)
    processor = read_processor(directory)
    template = template_of(processor, directory)
    if pool in ("image", "text") and image_token_of(config) is None:
        raise UsageError(
            f"{config.model_type} does not say which positions are the image's",
            remedy="--pool all or --pool last",
        )
    language = config.get_text_config()
    layers = language.num_hidden_layers
    if not isinstance(layers, int) or not 0 < layers <= MOST_LAYERS:
        raise ModelError(
            f"says that it has {layers!r} layers",
            path=directory / "config.json",
            remedy="the download is damaged; fetch it again",
        )
    chosen = resolve_layer(layer, layers=layers)
    identity = {
        "encoder": f"{config.model_type} of transformers",
        "weights": fingerprint_of_weights(open_weights(directory)),
        "dtype": str(DTYPES[dtype]),
        "load_in": load_in,
        "processor": fingerprint_of_small_files(directory),
        "image_processor": type(processor.image_processor).__name__,
        "template": hashlib.sha256(template.encode()).hexdigest()[:16],
        "layout": LAYOUT,
        "layer": chosen,
        "pool": pool,
    }

    def load() -> TransformersEncoder:
        model = load_model(
            directory, AUTO_CLASS, device=device, dtype=DTYPES[dtype], load_in=load_in
        )
        return TransformersEncoder(
            model=model,
            processor=processor,
            identity=identity,
            dtype=DTYPES[dtype],
            layer=chosen,
            pool=pool,
        )

    return DeferredEncoder(identity=identity, width=int(language.hidden_size), load=load)


_checked: type[SemanticEncoder] = TransformersEncoder  # the type checker holds it to the protocol


def _shapes(inputs: Inputs) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, tuple(tensor.shape)) for name, tensor in inputs.items()))


def _joined(inputs: Sequence[Inputs]) -> Inputs:
    return {name: torch.cat([one[name] for one in inputs]) for name in inputs[0]}


# --- pooling ---------------------------------------------------------------------------------

POOLS = ("all", "image", "text", "last")
"""Which positions are averaged: every one, as in the paper; those of the image; the others,
which are question and template; or the last one, from which a model would go on to write.
Padding never counts."""


def check_pool(pool: str) -> None:
    """Raise UsageError unless `pool` is one of `POOLS`."""
    if pool not in POOLS:
        raise UsageError(f"unknown pool {pool!r}: use one of {', '.join(POOLS)}")


def positions(pool: str, *, present_BL: Tensor, image_BL: Tensor) -> Tensor:
    """Return the positions that count, (B, L) bool.

    Args:
        present_BL: false where a sequence is padded.
        image_BL: true where the image stands.

    Raises:
        UsageError: an unknown pool, or a sequence without any such position.
    """
    check_pool(pool)
    if pool == "last":
        steps_L = torch.arange(present_BL.shape[1], device=present_BL.device)
        last_B = torch.where(present_BL, steps_L, -1).amax(dim=1)
        chosen = steps_L == last_B[:, None]
    elif pool == "image":
        chosen = present_BL & image_BL
    elif pool == "text":
        chosen = present_BL & ~image_BL
    else:
        chosen = present_BL
    if not bool(chosen.any(dim=1).all()):
        raise UsageError(f"pool {pool!r} finds no position to average in this model's prompt")
    return chosen


def mean_over(states_BLD: Tensor, chosen_BL: Tensor) -> Tensor:
    """Return the mean of the chosen positions' states, (B, D), accumulated in float32."""
    weights_BL1 = chosen_BL[..., None].to(states_BLD.device)
    total_BD = torch.where(weights_BL1, states_BLD.float(), 0.0).sum(dim=1)
    return total_BD / weights_BL1.sum(dim=1)


# --- what a model says about itself ----------------------------------------------------------


def image_token_of(config: Any) -> int | None:
    """Return the id that marks an image's positions; None if the configuration has none."""
    for name in ("image_token_id", "image_token_index"):
        if isinstance(found := getattr(config, name, None), int):
            return found
    return None


def resolve_layer(layer: int, *, layers: int) -> int:
    """Count a layer from the front: -1 is the last of `layers`, 0 the embeddings.

    Raises:
        UsageError: the model has no such layer.
    """
    if not -layers - 1 <= layer <= layers:
        raise UsageError(
            f"layer {layer} is not there: this model has 0 (embeddings) to {layers}, or -1 to "
            f"-{layers + 1} from the end"
        )
    return layer if layer >= 0 else layers + 1 + layer


def template_of(processor: Any, directory: Path) -> str:
    """Return the chat template.

    Raises:
        ModelError: there is none.
    """
    template = processor.chat_template or getattr(processor.tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        template = template.get("default")
    if not isinstance(template, str):
        raise ModelError(
            "has no chat template, so it is not known how to ask it",
            path=directory,
            remedy="take the instruction-tuned version, or put a chat_template.jinja beside its "
            "config.json",
        )
    return template


def shared_vision_inputs(base: Any, accepted: set[str]) -> tuple[str, ...]:
    """Return which inputs its vision tower takes; none if forward takes no features."""
    if "mm_encoder_outputs" not in accepted or not hasattr(base, "get_image_features"):
        return ()
    return tuple(sorted({*inspect.signature(base.get_image_features).parameters} - {"kwargs"}))


# --- loading ---------------------------------------------------------------------------------


def require_transformers() -> None:
    """Raise MissingExtraError unless transformers is installed."""
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError("transformers", "lmm")


def read_config(directory: Path) -> Any:
    """Return transformers' configuration object.

    Raises:
        ModelError: transformers does not know the model, or it needs code of its own.
    """
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # transformers has no error class of its own
        raise ModelError(
            f"transformers {transformers.__version__} does not load this model: "
            f"{first_line(error)}",
            path=directory,
            remedy="code inside a checkpoint is never run here; look for a version of it "
            "whose name ends in -hf, or upgrade transformers",
        ) from error


def require_kind(config: Any, directory: Path) -> None:
    """Raise ModelError unless the model takes an image and a text."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ModelError(
            f"is a model of type {config.model_type!r}, which cannot be asked about an image",
            path=directory,
            remedy="take an image-text-to-text model, CLIP or SigLIP",
        )


def read_processor(directory: Path) -> Any:
    """Return the model's processor: tokenizer, image preprocessing and template.

    Raises:
        ModelError: a file of it is missing or damaged.
        MissingExtraError: it needs a package that is not installed.
    """
    import transformers

    try:
        processor = transformers.AutoProcessor.from_pretrained(directory, local_files_only=True)
    except ImportError as error:
        raise MissingExtraError(_package(error), "lmm") from error
    except Exception as error:  # transformers has no error class of its own
        raise ModelError(
            f"its processor cannot be read: {first_line(error)}",
            path=directory,
            remedy="the folder must hold the model's tokenizer and processor files too",
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelError(
            f"its processor is a {type(processor).__name__}, without image preprocessing or "
            "without a tokenizer",
            path=directory,
            remedy="the folder must hold the model's processor files too",
        )
    return processor


def open_weights(directory: Path) -> Checkpoint:
    """Return the weight files, all of them there; they are not read yet.

    Raises:
        ModelError: some are missing, or they are pickles.
    """
    checkpoint = open_checkpoint(directory)
    if pickles := [path.name for path in checkpoint.shards if path.suffix != ".safetensors"]:
        raise ModelError(
            f"holds pickled weights ({pickles[0]}), which are not read",
            path=directory,
            remedy=f"take a revision that has {SAFETENSORS}",
        )
    return checkpoint


def load_model(
    directory: Path,
    auto_class: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    load_in: int | None = None,
) -> nn.Module:
    """Return the model, frozen, in eval mode, on its device.

    Args:
        auto_class: name of the class of transformers that builds it.
        load_in: 8 or 4 for quantised weights.

    Raises:
        ModelError: damaged weights, or weights that are not this model's.
    """
    import transformers

    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    if load_in is not None:
        options["quantization_config"] = _bitsandbytes(load_in, dtype=dtype)
    if device.type == "cuda":  # straight to the device, through accelerate
        options["device_map"] = {"": device}
    try:
        with _no_progress_bar():
            model, report = getattr(transformers, auto_class).from_pretrained(
                directory, output_loading_info=True, **options
            )
    except ImportError as error:
        raise MissingExtraError(_package(error), "lmm") from error
    except Exception as error:  # safetensors' and transformers' errors share no base class
        if devices.is_out_of_memory(error):
            raise
        raise ModelError(
            f"its weights cannot be loaded: {first_line(error)}",
            path=directory,
            remedy="the download is incomplete or damaged; fetch it again",
        ) from error
    _require_complete(report, directory)
    model.requires_grad_(False)
    model.eval()
    loaded: nn.Module = model if load_in is not None else model.to(device)
    return loaded


def _bitsandbytes(bits: int, *, dtype: torch.dtype) -> Any:
    """Return the configuration that transformers takes."""
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _require_complete(report: Mapping[str, Any], directory: Path) -> None:
    """Raise ModelError if a tensor kept its random start."""
    names = sorted(map(str, report["missing_keys"]))
    names += sorted(str(entry) for entry in report["mismatched_keys"])
    if names:
        raise ModelError(
            f"{len(names)} tensors are missing or have another shape: {join_some(names)}",
            path=directory,
            remedy="these are not the weights that its config.json describes",
        )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers' bar off stderr, where the command line shows its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _package(error: ImportError) -> str:
    """Return the package that transformers asks for; it quotes the name where it has none."""
    quoted = re.search(r"`([\w-]+)`", str(error))
    return error.name or (quoted[1] if quoted else first_line(error))
