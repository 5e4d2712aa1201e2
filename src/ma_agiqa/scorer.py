"""Scoring images with a loaded model.

A `Scorer` owns what a score must not depend on (device, batch size, worker count). Images
are decoded in threads beside the network, batched by size from a bounded window, and their
scores leave in input order. A bad image becomes a row with an error, never a made-up score.

The window is bounded, so memory is too, however long the source. Which images share a
batch follows from input order and sizes alone, never from which one happened to be decoded
first, so a repeated run forms the same batches.

What this file does not do: decide what an image or a model is (`images.py`,
`models/checkpoint.py`), show progress, or write results (`cli`).

Shapes: B images of one batch, H, W prepared height and width, h, w rows and columns of a map.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ma_agiqa import devices, images
from ma_agiqa.config import ModelConfig
from ma_agiqa.errors import ImageError, ModelError, UsageError
from ma_agiqa.features.source import SemanticSource, hash_source, open_source
from ma_agiqa.models import checkpoint, registry
from ma_agiqa.models import preprocess as preprocessing
from ma_agiqa.models.prediction import QualityNetwork, explanations
from ma_agiqa.types import RGB, Score

DEFAULT_BATCH = {"cpu": 2, "mps": 8, "cuda": 32}
MAX_DEFAULT_WORKERS = 8

ENLARGED = (
    "no detail of the size of a pixel: enlarged or blurred, score the original if there is one"
)
"""The hint for a picture that `images.enlarged` notices."""


def load(
    model: str | os.PathLike[str] = "compact",
    *,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    revision: str | None = None,
    store: str | os.PathLike[str] | None = None,
    lmm: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
) -> Scorer:
    """Return a scorer for a named model, a model directory, or a model on the Hub.

    Args:
        model: name of a preset, path of a directory, or a Hub id such as `owner/name`.
        device: `auto` (CUDA, else MPS, else CPU) or a torch device such as `cuda:1`; an exported
            model runs on a CPU.
        batch_size: most images per forward pass; chosen by device when None.
        workers: threads that decode images, and images that the network of a CPU judges side by
            side; one per CPU core, at most 8, when None.
        revision: commit, tag or branch of a Hub model.
        store: feature store with the semantic vectors, for a model that takes them.
        lmm: in its place, the large multimodal model that computes them: `mplug-owl2`, a
            checkpoint directory or a Hub id.
        dtype: of that LMM, `fp16`, `bf16` or `fp32`; as in training when None.

    Raises:
        UsageError: unknown name or device, or no source of semantic vectors.
        ModelError: the model directory is damaged or foreign.
        FeatureError: store or LMM are not what the model was trained with.
    """
    model = os.fspath(model)
    store, lmm = (None if place is None else os.fspath(place) for place in (store, lmm))
    arguments = {
        "model": model,
        "device": device,
        "batch_size": batch_size,
        "workers": workers,
        "revision": revision,
        "store": store,
        "lmm": lmm,
        "dtype": dtype,
    }
    directory = registry.find_directory(model, revision=revision)
    semantics = open_source(
        checkpoint.read_config(directory),
        store=store,
        lmm=lmm,
        device=device,
        dtype=dtype,
    )
    network, config = checkpoint.load(directory)
    return Scorer(
        # Convolutions of this memory layout run faster on a CPU.
        network.to(memory_format=torch.channels_last),
        config,
        device=device,
        batch_size=batch_size,
        workers=workers,
        revision=revision,
        semantics=semantics,
        loaded_with=arguments,
    )


def _load_again(arguments: dict[str, Any]) -> Scorer:
    return load(**arguments)


class Scorer:
    """A model ready to judge images; several threads may share one.

    A forked process may go on with a scorer of its parent, on a CPU: it computes on one thread
    then, and scores are the same. A pickled scorer that `load` made is loaded again where it is
    unpickled.

    Attributes:
        model: the plain network, in eval mode on `device`, differentiable in the image unless it
            is an exported one.
        config: what the model is and how its input is prepared.
        name: what results call the model: its name, with `@revision` when one was asked for.
        semantics: where semantic vectors come from; None for a model without.
    """

    def __init__(
        self,
        model: QualityNetwork,
        config: ModelConfig,
        *,
        device: str = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
        revision: str | None = None,
        semantics: SemanticSource | None = None,
        loaded_with: dict[str, Any] | None = None,
    ) -> None:
        self.device = devices.resolve("cpu" if model.exported and device == "auto" else device)
        if model.exported and self.device.type != "cpu":
            raise UsageError(f"an exported model runs on a CPU, not on {device}")
        default_batch = DEFAULT_BATCH.get(self.device.type, DEFAULT_BATCH["cpu"])
        default_workers = min(devices.available_cores(), MAX_DEFAULT_WORKERS)
        side_by_side = self.device.type == "cpu" and model.alone
        if side_by_side:
            default_batch = 4 * default_workers
        self.batch_size = _positive("batch_size", batch_size, default_batch)
        self.workers = _positive("workers", workers, default_workers)
        self.model = model.to(self.device).eval()
        self.config = config
        self.name = config.name if revision is None else f"{config.name}@{revision}"
        self.semantics = semantics
        self._experts = (*config.questions, *model.experts)
        self._quantiles = () if config.trained_on is None else config.trained_on.score_quantiles
        self._loaded_with = loaded_with
        self._side_by_side = min(self.workers, default_workers) if side_by_side else 0
        self._start_threads()

    def _start_threads(self) -> None:
        """Make what belongs to one process: threads of its own and the lock before the network."""
        self._process = os.getpid()
        self._forward_lock = threading.Lock()
        self._lanes: devices.SingleThreadPool | None = None
        if self._side_by_side:
            self._lanes = devices.SingleThreadPool(self._side_by_side)

    def _notice_fork(self) -> None:
        if os.getpid() != self._process:
            # Threads do not live on in a fork, neither ours nor those of torch's operations, and
            # an operation that waits for them would wait for ever.
            torch.set_num_threads(1)
            self._start_threads()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._loaded_with is None:
            raise TypeError("only a scorer that ma_agiqa.load made can be pickled or copied")
        return _load_again, (self._loaded_with,)

    def __call__(self, image: Any, *, explain: bool = False, prompt: str | None = None) -> Score:
        """Score one image: a path, bytes, PIL image, array or tensor.

        Args:
            explain: also return why: what the experts and the places of the image add.
            prompt: the words that generated it, for a model whose questions quote them.

        Raises:
            ImageError: the image cannot be read or judged.
        """
        self._notice_fork()
        prepared = self._prepare(image, images.read_image, hash_source, lambda _: prompt)
        item = Pending(images.label(image, 0), **prepared._asdict())
        self._score_batch([item], explain=explain)
        score = self._result(item)
        if score.error is not None:
            raise ImageError(score.error, path=score.path)
        return score

    def score(
        self,
        sources: Iterable[Any],
        *,
        explain: bool = False,
        read: Callable[[Any], RGB] = images.read_image,
        content: Callable[[Any], str | None] = hash_source,
        prompt: Callable[[Any], str | None] = lambda _: None,
    ) -> Iterator[Score]:
        """Score many images, lazily and in input order; bad ones become rows with an error.

        At most three batches are taken from `sources` ahead of the result.

        Args:
            sources: images as `scorer(image)` takes them; sizes may differ.
            explain: also return why: what the experts and the places of the image add.
            read: turns one source into RGB and raises ImageError; runs in worker threads.
            content: after that, gives the hash of the source's file, by which stored
                features are found; None for an image without a file.
            prompt: gives the words that generated an image, where the model's questions
                quote them.

        Raises:
            UsageError: `sources` is a single image.
        """
        single = isinstance(sources, str | bytes | os.PathLike | Image.Image)
        if single or 0 < getattr(sources, "ndim", 0) < 4:  # an array or tensor of one image
            raise UsageError(
                "score() takes an iterable of images, got a single one",
                remedy="call scorer(image), or pass a list",
            )
        return self._stream(
            sources,
            explain=explain,
            prepare=lambda one: self._prepare(one, read, content, prompt),
        )

    def _stream(
        self, sources: Iterable[Any], *, explain: bool, prepare: Callable[[Any], Prepared]
    ) -> Iterator[Score]:
        """Decode in a pool of threads while the network works on what is ready."""
        self._notice_fork()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="ma-agiqa-decode")
        window = Window(
            sources,
            label=images.label,
            submit=lambda source: pool.submit(prepare, source),
            batch_size=self.batch_size,
        )
        try:
            while window.fill():
                if batch := window.next_batch():
                    self._score_batch(batch, explain=explain)
                yield self._result(window.pop())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _prepare(
        self,
        source: Any,
        read: Callable[[Any], RGB],
        content: Callable[[Any], str | None],
        prompt: Callable[[Any], str | None],
    ) -> Prepared:
        rgb = read(source)
        pixels = preprocessing.to_chw(preprocessing.fit(rgb, self.config.preprocess))
        hint = ENLARGED if images.enlarged(rgb) else None
        if self.semantics is None:
            return Prepared(pixels, hint=hint)
        sha256 = content(source) if self.semantics.needs_hash else None
        words = prompt(source) if self.semantics.quotes_prompts else None
        return Prepared(pixels, self.semantics.prepare(rgb, sha256, words), hint)

    def _score_batch(self, batch: list[Pending], *, explain: bool) -> None:
        """Run the network on prepared images of one size.

        Halve and retry if memory is short, or to find which image the LMM refuses.
        """
        try:
            self._forward(batch, explain=explain)
            return
        except ImageError as error:
            if self.semantics is None or len(batch) == 1:  # the network refuses this size
                for item in batch:
                    item.error, item.pixels, item.semantics = error.without_path, None, None
                return
        except (MemoryError, RuntimeError) as error:
            if not devices.is_out_of_memory(error):
                raise
        # Out of the except clause, so that the failed attempt's tensors are released.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) > 1:
            middle = len(batch) // 2
            self._score_batch(batch[:middle], explain=explain)
            self._score_batch(batch[middle:], explain=explain)
        else:
            batch[0].error = f"not enough memory on {self.device} to score the image"
            batch[0].pixels = batch[0].semantics = None

    def _forward(self, batch: list[Pending], *, explain: bool) -> None:
        """Score one batch; the prepared pixels are dropped as soon as it has succeeded."""
        pixels = [item.pixels for item in batch if item.pixels is not None]
        with self._forward_lock, devices.full_float32(self.device):
            if self._lanes is not None:
                alone = self._lanes.map(
                    lambda one: self._judge([self._input(one[None])], explain), pixels
                )
                judged = list(itertools.chain(*alone))
            else:
                inputs = [self._input(torch.stack(pixels))]
                if self.semantics is not None:
                    with torch.inference_mode():
                        vectors = self.semantics.collect([item.semantics for item in batch])
                    inputs.append(vectors.to(self.device))
                judged = self._judge(inputs, explain)
        for item, (value, reasons) in zip(batch, judged, strict=True):
            item.pixels = item.semantics = None
            if not np.isfinite(value):
                item.error = f"the network gave no finite score ({value})"
                continue
            score = self._record(item.label, value=value, hint=item.hint)
            item.score = dataclasses.replace(score, **reasons)

    def _input(self, pixels: torch.Tensor) -> torch.Tensor:
        """Move uint8 pixels (B, 3, H, W) to the device, a quarter of what the network takes."""
        return preprocessing.to_input(pixels.to(self.device), self.config.preprocess)

    def _judge(
        self, inputs: list[torch.Tensor], explain: bool
    ) -> list[tuple[float, dict[str, Any]]]:
        """Run the network; return each image's score and the fields that explain it."""
        with torch.inference_mode():  # of this thread, which may be a lane
            output = self.model(*inputs)
            values = output.score.float().cpu()
            count = len(inputs[0])
            reasons = explanations(output, self._experts) if explain else [{}] * count
        if values.shape != (count,):
            raise ModelError(
                f"the network gave scores of shape {tuple(values.shape)}, expected ({count},)",
                path=self.name,
            )
        return list(zip(values.tolist(), reasons, strict=True))

    def _result(self, item: Pending) -> Score:
        return item.score or self._record(item.label, error=item.error)

    def _record(
        self,
        label: str,
        *,
        value: float | None = None,
        error: str | None = None,
        hint: str | None = None,
    ) -> Score:
        percentile = None
        if value is not None and self._quantiles:
            positions = np.linspace(0.0, 100.0, len(self._quantiles))
            percentile = float(np.interp(value, self._quantiles, positions))
        scale, around, interval = self.config.scale, self.config.interval, None
        if value is not None and around is not None:
            ends = np.clip(
                [value - around.half_width, value + around.half_width], scale.low, scale.high
            )
            interval = (float(ends[0]), float(ends[1]))
        return Score(
            path=label,
            score=value,
            percentile=percentile,
            low=scale.low,
            high=scale.high,
            model=self.name,
            error=error,
            hint=hint,
            interval=interval,
        )


def _positive(name: str, value: int | None, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


WINDOW_BATCHES = 3
"""How many batches of images are pending at most: read, being decoded, or decoded."""

GROUPING_BATCHES = 2
"""How many of them are searched for images of one size; the rest decode meanwhile."""


class Prepared(NamedTuple):
    """What the network needs of one image.

    Attributes:
        pixels: at the size the network sees, uint8 (3, H, W).
        semantics: what the source of semantic vectors keeps of it, if there is a source.
        hint: what may mislead the score, if anything.
    """

    pixels: Tensor
    semantics: Any = None
    hint: str | None = None


@dataclass
class Pending:
    """One image: first a future, then prepared or an error, at last a score."""

    label: str
    future: Future[Prepared] | None = None
    pixels: Tensor | None = None
    semantics: Any = None
    hint: str | None = None
    error: str | None = None
    score: Score | None = None

    def settle(self) -> None:
        """Wait until the image is decoded or has failed."""
        if self.future is None:
            return
        try:
            self.pixels, self.semantics, self.hint = self.future.result()
        except ImageError as error:
            self.error = error.without_path
        except MemoryError:
            self.error = "not enough memory to decode the image"
        self.future = None


class Window:
    """The images taken from a source and not yet handed out, oldest first.

    Args:
        sources: what to decode, in order.
        label: names a source, given its position.
        submit: starts decoding a source.
        batch_size: most images of a batch.
    """

    def __init__(
        self,
        sources: Iterable[Any],
        *,
        label: Callable[[Any, int], str],
        submit: Callable[[Any], Future[Prepared]],
        batch_size: int,
    ) -> None:
        self._items: deque[Pending] = deque()
        self._sources: Iterator[Any] | None = enumerate(sources)
        self._label, self._submit = label, submit
        self._batch_size = batch_size
        self._failure: Exception | None = None

    def fill(self) -> bool:
        """Take sources until the window is full; False when nothing is left.

        An error of the source itself is raised once all it gave before is handed out.
        """
        while self._sources is not None and len(self._items) < WINDOW_BATCHES * self._batch_size:
            try:
                index, source = next(self._sources)
            except StopIteration:
                self._sources = None
            except Exception as error:
                self._sources, self._failure = None, error
            else:
                self._items.append(Pending(self._label(source, index), self._submit(source)))
        if not self._items and self._failure is not None:
            raise self._failure
        return bool(self._items)

    def next_batch(self) -> list[Pending]:
        """Return the oldest image and others of its size; empty if it needs no network."""
        if self._items[0].score is not None:
            return []
        near = list(itertools.islice(self._items, GROUPING_BATCHES * self._batch_size))
        for item in near:
            item.settle()
        first = near[0].pixels
        if first is None:
            return []
        same = [i for i in near if i.pixels is not None and i.pixels.shape == first.shape]
        return same[: self._batch_size]

    def pop(self) -> Pending:
        """Hand out the oldest image."""
        return self._items.popleft()
