"""A large multimodal model as an encoder: an image and a question in, one vector out.

`open_encoder` turns what `--lmm` names into an encoder. A name is a short name of `LMMS`, a
directory or a Hub id; its `config.json` says which module loads it:

    model_type                    module
    mplug_owl2                    `mplug_owl2/`, our own implementation
    clip, siglip, siglip2         `clip.py`, image and text towers
    any other                     `transformers.py`, what transformers loads

`handcrafted` is a name too: it has no weights and answers no question.

The official questions are the texts of getFeature.py in the official code. The prompt is its
conversation template without system text; the image comes *after* the question.
Other questions are data: a TOML or JSON file of `name = "text"` pairs. `{prompt}` in a text
stands for the words that generated the image.

Shapes: B images, K questions, D width of one vector.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ma_agiqa import devices
from ma_agiqa.errors import FeatureError, ImageError, MissingExtraError, ModelError, UsageError
from ma_agiqa.lmm.weights import CONFIG, read_config
from ma_agiqa.types import RGB

LMMS: dict[str, str] = {"mplug-owl2": "MAGAer13/mplug-owl2-llama2-7b"}
"""Short name -> Hub id."""

MPLUG_OWL2 = "mplug_owl2"
TOWERS = ("clip", "siglip", "siglip2")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
OFFICIAL_DTYPE = "fp16"
LAST, ALL = -1, "all"

IMAGE_MARK = "<|image|>"
BLANK = "{prompt}"
"""Where the words that generated the image go."""

PROMPT = f"USER: {{question}}\n{IMAGE_MARK} ASSISTANT:"
_CONTROL_MARKS = (IMAGE_MARK, "<s>", "</s>", "<unk>")


# --- questions -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """One question about an image.

    Raises:
        UsageError: an unusable name, an empty text, or a text that contains a mark of the prompt.
    """

    name: str
    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise UsageError(f"question {self.name!r} has no text")
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.name):
            raise UsageError(f"question name {self.name!r} must be of a-z, 0-9, '-' and '_'")
        marks = [mark for mark in _CONTROL_MARKS if mark in self.text]
        if marks:
            raise UsageError(
                f"question {self.name!r} contains {', '.join(marks)}",
                remedy="write the question alone; the prompt adds the image",
            )

    @property
    def prompt(self) -> str:
        """The whole prompt, with the mark where the image goes."""
        return PROMPT.replace("{question}", self.text)

    @property
    def quotes_prompt(self) -> bool:
        """Whether the text quotes the words that generated the image."""
        return BLANK in self.text

    def about(self, prompt: str) -> Question:
        """Return the question with the words that generated the image filled in.

        Raises:
            UsageError: the words contain a mark of the prompt.
        """
        return Question(name=self.name, text=self.text.replace(BLANK, prompt))

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the text and with nothing else."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


MEANING = Question(
    name="meaning",
    text="Evaluate the input image to determine if its quality is compromised due to a lack of "
    "meaningful semantic content.",
)
COHERENCE = Question(
    name="coherence",
    text="Evaluate if the image quality is compromised due to violations of coherence.",
)
OFFICIAL = (MEANING, COHERENCE)
"""In the order of the official model."""


def read_questions(path: Path) -> tuple[Question, ...]:
    """Read questions from a `.toml` or `.json` file of name and text pairs, in file order.

    Raises:
        UsageError: the file cannot be read or does not hold questions.
    """
    try:
        data = _parse(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {error}", path=path) from error
    except ValueError as error:  # the errors of both parsers are ValueErrors
        raise UsageError(f"damaged: {error}", path=path) from error
    if not isinstance(data, Mapping) or not data:
        raise UsageError(
            "holds no questions", path=path, remedy='write one line per question: name = "text"'
        )
    try:
        return tuple(Question(name=name, text=text) for name, text in data.items())
    except UsageError as error:
        raise UsageError(error.reason, path=path, remedy=error.remedy) from error


def quote_prompts(questions: Sequence[Question]) -> bool:
    """Say whether any question quotes the words that generated the image."""
    return any(question.quotes_prompt for question in questions)


def require_prompts(questions: Sequence[Question], prompts: Sequence[str] | None) -> None:
    """Raise UsageError if a question quotes prompts and there are none."""
    if prompts is None and quote_prompts(questions):
        raise UsageError(
            "a question quotes {prompt}, and the words that generated the images are not given",
            remedy="--prompt TEXT for all, or --data with a prompt column",
        )


def to_record(questions: Sequence[Question]) -> dict[str, dict[str, str]]:
    """Return questions as a model's or a feature store's JSON holds them, in order."""
    return {q.name: {"text": q.text, "fingerprint": q.fingerprint} for q in questions}


def from_record(record: Mapping[str, Any], *, source: str | Path) -> tuple[Question, ...]:
    """Read what `to_record` wrote.

    Raises:
        FeatureError: this is no such record, or a text does not match its fingerprint.
    """
    try:
        questions = tuple(Question(name=n, text=entry["text"]) for n, entry in record.items())
        wrong = [q.name for q in questions if record[q.name]["fingerprint"] != q.fingerprint]
    except (TypeError, KeyError, AttributeError, UsageError) as error:
        raise FeatureError(f"the record of questions is damaged: {error}", path=source) from error
    if wrong:
        raise FeatureError(
            f"the text of question {', '.join(wrong)} was changed after features were extracted",
            path=source,
            remedy="another text is another question: extract into a new store",
        )
    return questions


def _parse(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix != ".toml":
        raise UsageError("questions are read from .toml or .json files", path=path)
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise MissingExtraError("tomli", "paper") from error
    return tomllib.loads(text)


# --- the protocol ----------------------------------------------------------------------------


class SemanticEncoder(Protocol):
    """A frozen model that turns an image and a question into a vector."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything vectors depend on besides image and question, as JSON data.

        By name: weights, preprocessing, prompt, dtype and so on.
        """
        ...

    @property
    def fingerprint(self) -> str:
        """`fingerprint_of(identity)`."""
        ...

    @property
    def width(self) -> int:
        """D."""
        ...

    def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
        """Return one vector per image and question, (B, K, D), float32.

        Raises:
            ImageError: an image that cannot be used; no vector of the batch is returned.
        """
        ...


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that change with any entry of an identity."""
    text = json.dumps(dict(identity), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def diff_identity(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Say in which entries two identities differ, with both values: `dtype: a, not b`."""

    def shown(identity: Mapping[str, Any], name: str) -> str:
        return json.dumps(identity[name]) if name in identity else "nothing"

    return "; ".join(
        f"{name}: {shown(found, name)}, not {shown(expected, name)}"
        for name in {**expected, **found}
        if shown(found, name) != shown(expected, name)
    )


class DeferredEncoder:
    """An encoder whose identity is known and whose weights are read at the first image.

    Args:
        load: makes the encoder that `identity` and `width` describe.
    """

    def __init__(
        self, *, identity: Mapping[str, Any], width: int, load: Callable[[], SemanticEncoder]
    ) -> None:
        self.identity, self.width = dict(identity), width
        self._load, self._lock = load, threading.Lock()
        self._loaded: SemanticEncoder | None = None

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of `identity`."""
        return fingerprint_of(self.identity)

    def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
        """Return (B, K, D), float32; see `SemanticEncoder`."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
        return self._loaded.encode(images, questions)


def encode_with_prompts(
    encoder: SemanticEncoder,
    images: Sequence[RGB],
    questions: Sequence[Question],
    prompts: Sequence[str | None],
) -> Tensor:
    """Return the vectors of images whose questions quote the words that generated each.

    Images with equal words are encoded together, because their questions are the same.

    Args:
        prompts: the words behind each image; None where no question quotes them.

    Raises:
        ImageError: an image cannot be used, or its words cannot be asked about.
    """
    if not len(images):
        return encoder.encode(images, questions)
    groups: dict[str | None, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(i)
    vectors: dict[int, Tensor] = {}
    for prompt, members in groups.items():
        own = [images[i] for i in members]
        if prompt is None:
            found = encoder.encode(own, questions)
        else:
            try:
                found = encoder.encode(own, [question.about(prompt) for question in questions])
            except UsageError as error:  # these words are one image's, not the user's request
                raise ImageError(f"its prompt cannot be asked about: {error}") from error
        vectors |= zip(members, found, strict=True)
    return torch.stack([vectors[i] for i in range(len(images))])


# --- a name becomes an encoder ---------------------------------------------------------------


def open_encoder(
    name: str | Path,
    *,
    device: str = "auto",
    dtype: str = OFFICIAL_DTYPE,
    layer: int = LAST,
    pool: str = ALL,
    load_in: int | None = None,
    revision: str | None = None,
) -> DeferredEncoder:
    """Return the encoder of a short name, a checkpoint directory or a Hub id.

    Its weights are read at the first image.

    Args:
        dtype: "fp16", "bf16" or "fp32".
        layer: of the language model; -1 is the last one after the final norm, 0 the embeddings.
        pool: which positions are averaged: "all", "image", "text" or "last".
        load_in: 8 or 4 for quantised weights on a CUDA device.
        revision: commit, tag or branch on the Hub.

    Raises:
        ModelError: there is no such checkpoint, a file of it is missing or damaged, or it is of
            a kind that cannot be asked about images.
        UsageError: an unknown dtype, device, layer or pool, or one that this model does not have.
        MissingExtraError: a package that the model needs is not installed.
    """
    from ma_agiqa.lmm import handcrafted

    if str(name) == handcrafted.NAME:
        return DeferredEncoder(
            identity=handcrafted.IDENTITY,
            width=handcrafted.WIDTH,
            load=handcrafted.HandcraftedEncoder,
        )
    source = LMMS.get(str(name), name)
    place = devices.resolve(device)
    kind = model_type(read_config(source, revision=revision), source=source)
    if kind not in (MPLUG_OWL2, *TOWERS):
        from ma_agiqa.lmm import transformers

        return transformers.open_encoder(
            source,
            device=place,
            dtype=dtype,
            layer=layer,
            pool=pool,
            load_in=load_in,
            revision=revision,
        )
    if (layer, pool) != (LAST, ALL):
        raise UsageError(
            f"{kind} gives its last layer over all positions: leave out --layer and --pool"
        )
    if kind in TOWERS:
        from ma_agiqa.lmm import clip

        if load_in is not None:
            raise UsageError(f"{kind} is small, and not loaded in {load_in} bits")
        return clip.open_encoder(source, device=place, dtype=dtype, revision=revision)
    from ma_agiqa.lmm.mplug_owl2 import encoder as mplug_owl2

    return mplug_owl2.open_encoder(
        source, device=place, dtype=dtype, load_in=load_in, revision=revision
    )


def model_type(config: Mapping[str, Any], *, source: str | Path) -> str:
    """Return the family that a `config.json` names.

    Raises:
        ModelError: it names none.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind:
        return kind
    if "visual_config" in config:  # older copies of mPLUG-Owl2 do not say what they are
        return MPLUG_OWL2
    raise ModelError(
        f"its {CONFIG} has no model_type, only {', '.join(sorted(config)[:5]) or 'nothing'}",
        path=source,
        remedy="give the folder of a model in the layout of transformers",
    )


def recorded_settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `open_encoder` that open an encoder of this identity again.

    What the identity does not say is the official choice.
    """
    names = {str(dtype): name for name, dtype in DTYPES.items()}
    settings: dict[str, Any] = {"dtype": names.get(str(identity.get("dtype")), OFFICIAL_DTYPE)}
    recorded = {key: identity[key] for key in ("layer", "pool", "load_in") if key in identity}
    return settings | recorded


def default_questions(encoder: SemanticEncoder) -> tuple[Question, ...]:
    """Return what an encoder is asked where the user names no questions."""
    from ma_agiqa.lmm import handcrafted

    plain = encoder.fingerprint == fingerprint_of(handcrafted.IDENTITY)
    return (handcrafted.QUESTION,) if plain else OFFICIAL


def check_dtype(dtype: str) -> None:
    """Raise UsageError unless `dtype` is one of `DTYPES`."""
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}: use one of {', '.join(DTYPES)}")


def check_quantisation(bits: int | None, *, device: torch.device) -> None:
    """Refuse quantised weights that cannot be had, before any weight is read.

    8 bits is LLM.int8, 4 bits is NF4 with double quantisation, both through bitsandbytes on a
    CUDA device. What is computed stays in the dtype asked for. Vectors differ from those of
    full weights, so the identity names the bits.

    Raises:
        UsageError: another number of bits, or no CUDA device.
        MissingExtraError: bitsandbytes is not installed.
    """
    if bits is None:
        return
    if bits not in (8, 4):
        raise UsageError(f"weights load in 8 or 4 bits, not in {bits}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "quant")
    if device.type != "cuda":
        raise UsageError(
            f"{bits}-bit weights need a CUDA device, this is {device.type}",
            remedy="leave out --load-in, or use a machine with an NVIDIA GPU",
        )
