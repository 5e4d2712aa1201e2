"""`ma-agiqa extract`: parse, call, print. Images that failed go to stdout as JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ma_agiqa.cli import options
from ma_agiqa.cli.inputs import Listing
from ma_agiqa.cli.journal import json_line
from ma_agiqa.cli.progress import progress
from ma_agiqa.errors import UsageError

if TYPE_CHECKING:
    from ma_agiqa.features.extract import Extraction
    from ma_agiqa.features.store import FeatureStore
    from ma_agiqa.lmm.encoder import Question, SemanticEncoder

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[INPUT]...", help="Images, folders, quoted globs, - for stdin."),
]
Store = Annotated[Path, typer.Option(help="Folder of the feature store; made or added to.")]
Data = Annotated[
    str | None, typer.Option(help="In place of INPUT: a name from `ma-agiqa datasets`, or a table.")
]
DataRoot = Annotated[Path | None, typer.Option("--root", help="Folder the data set lies in.")]
Lmm = Annotated[
    str | None,
    typer.Option(
        "--lmm",
        help="mplug-owl2, or the directory or Hub id of any image-and-text model that "
        "transformers loads, of CLIP or of SigLIP; or handcrafted.",
    ),
]
Layer = Annotated[
    int,
    typer.Option(
        "--layer", help="Of the LMM: -1 the last after its norm, 0 the embeddings; -2, -3, ..."
    ),
]
Pool = Annotated[
    str, typer.Option("--pool", help="Positions that are averaged: all, image, text or last.")
]
LoadIn = Annotated[
    int | None,
    typer.Option("--load-in", metavar="8|4", help="Bits of the LMM's weights, on a CUDA device."),
]
Dtype = Annotated[str, typer.Option(help="Of the LMM: fp16 as published, bf16 or fp32.")]
Questions = Annotated[
    Path | None,
    typer.Option(
        help='TOML or JSON file of name = "text"; else the official two. {prompt} in a text '
        "stands for the words that generated the image."
    ),
]
BatchSize = Annotated[
    str, typer.Option(help="Images per pass, or auto: doubled while that is faster.")
]
ShardSize = Annotated[
    int, typer.Option(min=1, help="Images per file of the store; a kill loses at most so many.")
]
ImportOfficial = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Take the official script's *_coherence.pt and *_semantic_content.pt from DIR; "
        "--lmm then only says which LMM made them.",
    ),
]
Part = Annotated[
    str, typer.Option(metavar="I/N", help="Only every N-th image, for N processes at once.")
]


def extract(
    store: Store,
    words: Words = None,
    data: Data = None,
    root: DataRoot = None,
    lmm: Lmm = None,
    dtype: Dtype = "fp16",
    layer: Layer = -1,
    pool: Pool = "all",
    load_in: LoadIn = None,
    revision: options.Revision = None,
    questions: Questions = None,
    device: options.Device = "auto",
    batch_size: BatchSize = "auto",
    shard_size: ShardSize = 256,
    workers: options.Workers = None,
    part: Part = "1/1",
    engine: options.EngineOption = options.Engine.here,
    address: options.Address = None,
    ray_workers: options.RayWorkers = None,
    gpus: options.Gpus = 0.0,
    import_official: ImportOfficial = None,
    image_column: options.ImageColumn = "image",
    score_column: options.ScoreColumn = "score",
    prompt_column: options.PromptColumn = None,
    prompt: options.Prompt = None,
    quiet: options.Quiet = False,
) -> None:
    """Ask an LMM about images and store its vectors, once per image.

    What the store has is passed over, so the same command goes on after a stop. A bad image
    is reported and the run goes on. Several processes may fill one store, and so do the workers of
    --engine ray.

    Exit status: 0 all good, 1 some images failed, 2 wrong use.
    """
    size = _batch_size(batch_size)
    columns = (image_column, score_column, prompt_column)
    paths, prompts, note = _paths(words, data, root, columns)
    paths = _part(paths, part)
    if prompts is not None:
        prompts = _part(prompts, part)

    from ma_agiqa.features.extract import import_official as import_files
    from ma_agiqa.lmm.encoder import OFFICIAL, open_encoder, read_questions
    from ma_agiqa.scale import engines

    if lmm is None and import_official is None:
        raise UsageError("nothing to extract with", remedy="--lmm mplug-owl2, or a directory")
    if questions is not None and import_official is not None:
        raise UsageError("official files answer the official questions: leave out --questions")
    if engine is options.Engine.here and (address is not None or ray_workers is not None or gpus):
        raise UsageError("--address, --ray-workers and --gpus belong to --engine ray")
    prompts = prompts if prompt is None else [prompt] * len(paths)
    asked = None if questions is None else read_questions(questions)
    started = time.perf_counter()
    with progress(lambda: len(paths), title="extracting", quiet=quiet) as shown:
        if import_official is not None:
            _check_prompts(OFFICIAL, prompts, is_given=prompt is not None)
            maker = None
            if lmm is not None:
                maker = open_encoder(lmm, device=device, dtype=dtype, revision=revision)
            opened = _open(store, maker, OFFICIAL)
            done = import_files(import_official, paths, opened, on_image=shown.advance)
        else:
            assert lmm is not None
            make = partial(
                Extractor,
                store=store,
                questions=asked,
                prompt_is_given=prompt is not None,
                shard_size=shard_size,
                size=size,
                workers=workers,
                lmm=lmm,
                device=device,
                dtype=dtype,
                layer=layer,
                pool=pool,
                load_in=load_in,
                revision=revision,
            )
            if engine is options.Engine.here:
                done = make().extract(paths, prompts, on_image=shown.advance)
            else:
                done = _extract_on_ray(
                    make,
                    paths,
                    prompts,
                    shard_size=shard_size,
                    address=address,
                    workers=ray_workers or engines.default_workers(device),
                    gpus=gpus,
                    on_images=shown.advance,
                )
    summary = _summary(done, time.perf_counter() - started)
    for failure in done.failures:
        typer.echo(json_line({"path": failure.path, "error": failure.reason}), nl=False)
    if not quiet:
        typer.echo("\n".join(filter(None, [summary, note])), err=True)
    raise typer.Exit(options.SOME_FAILED if done.failures else options.OK)


class Extractor:
    """An LMM and the store that its vectors go to, in the process that runs it.

    Args:
        questions: in place of the usual ones of the LMM.
        prompt_is_given: whether the words behind the images were given as an option.
        size, shard_size, workers: as `features.extract.extract` takes them.
        lmm and the rest: as `lmm.encoder.open_encoder` takes them.
    """

    def __init__(
        self,
        *,
        store: Path,
        questions: tuple[Question, ...] | None,
        prompt_is_given: bool,
        size: int | None,
        shard_size: int,
        workers: int | None,
        lmm: str,
        device: str,
        dtype: str,
        layer: int,
        pool: str,
        load_in: int | None,
        revision: str | None,
    ) -> None:
        from ma_agiqa.lmm.encoder import default_questions, open_encoder

        self._encoder = open_encoder(
            lmm,
            device=device,
            dtype=dtype,
            layer=layer,
            pool=pool,
            load_in=load_in,
            revision=revision,
        )
        self._asked = default_questions(self._encoder) if questions is None else questions
        self._prompt_is_given = prompt_is_given
        self._place = store
        self._store: FeatureStore | None = None
        self._batch_size, self._shard_size, self._workers = size, shard_size, workers

    def extract(
        self, paths: list[str], prompts: list[str] | None, on_image: Callable[[], None]
    ) -> Extraction:
        from ma_agiqa.features.extract import extract

        _check_prompts(self._asked, prompts, is_given=self._prompt_is_given)
        if self._store is None:
            self._store = _open(self._place, self._encoder, self._asked)
            for error in self._store.damaged.values():
                typer.echo(f"warning: {error}", err=True)
        return extract(
            self._encoder,
            paths,
            self._store,
            prompts=prompts,
            batch_size=self._batch_size,
            shard_size=self._shard_size,
            workers=self._workers,
            on_image=on_image,
        )

    def answer(self, task: str) -> Iterator[str]:
        """Do a share of the images given as text, and tell what became of them."""
        paths, prompts = json.loads(task)
        done = self.extract(paths, prompts, lambda: None)
        failures = [[failure.path, failure.reason] for failure in done.failures]
        yield json.dumps([done.extracted, done.present, failures])


def _extract_on_ray(
    make: Callable[[], Extractor],
    paths: list[str],
    prompts: list[str] | None,
    *,
    shard_size: int,
    address: str | None,
    workers: int,
    gpus: float,
    on_images: Callable[[int], None],
) -> Extraction:
    """Share the images out to the workers of a cluster, a file of the store at a time."""
    from ma_agiqa.features.extract import Extraction, Failure
    from ma_agiqa.scale.engines import run_on_ray

    cuts = [slice(at, at + shard_size) for at in range(0, len(paths), shard_size)]
    tasks = [json.dumps([paths[cut], prompts and prompts[cut]]) for cut in cuts]
    extracted = present = 0
    failures: list[Failure] = []
    for answer in run_on_ray(tasks, make, address=address, workers=workers, gpus=gpus):
        new, known, failed = json.loads(answer)
        extracted, present = extracted + new, present + known
        failures += [Failure(path, reason) for path, reason in failed]
        on_images(new + known + len(failed))
    return Extraction(extracted, present, failures)


def _check_prompts(
    asked: tuple[Question, ...], prompts: list[str] | None, *, is_given: bool
) -> None:
    """Require prompts where a question quotes them, and refuse `--prompt` where none does."""
    from ma_agiqa.lmm.encoder import quote_prompts, require_prompts

    if is_given and not quote_prompts(asked):
        raise UsageError("no question quotes {prompt}: leave out --prompt")
    require_prompts(asked, prompts)


def _open(
    store: Path, encoder: SemanticEncoder | None, questions: tuple[Question, ...]
) -> FeatureStore:
    """Open or make the store of an encoder; without one, of official files."""
    from ma_agiqa.features.extract import OFFICIAL_IDENTITY, OFFICIAL_WIDTH
    from ma_agiqa.features.store import FeatureStore, Header

    identity = OFFICIAL_IDENTITY if encoder is None else encoder.identity
    width = OFFICIAL_WIDTH if encoder is None else encoder.width
    return FeatureStore.create(store, Header(encoder=identity, width=width, questions=questions))


def _paths(
    words: list[str] | None,
    data: str | None,
    root: Path | None,
    columns: tuple[str, str, str | None],
) -> tuple[list[str], list[str] | None, str]:
    """Return the images that either INPUT or --data stands for, and the words behind each.

    The last says what was passed over.
    """
    if (data is None) == (not words):
        raise UsageError("give either images or --data", remedy="--data NAME --root DIR")
    if data is None:
        if root is not None:
            raise UsageError("--root belongs to --data")
        listing = Listing(words or [])
        return [item.path for item in listing], None, listing.note()
    if root is None:
        raise UsageError("--data needs --root, the folder the data set lies in")

    from ma_agiqa.data import datasets
    from ma_agiqa.data.samples import TableColumns
    from ma_agiqa.data.splits import PROMPT

    samples = datasets.load(data, root, TableColumns(*columns))
    prompts = samples.groups.get(PROMPT)
    return [str(path) for path in samples.path], None if prompts is None else list(prompts), ""


def _part(paths: list[str], part: str) -> list[str]:
    """Return every N-th path from the I-th on."""
    number, slash, count = part.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--part {part!r} is not of the form I/N", remedy="1/4, 2/4, 3/4, 4/4")
    return paths[int(number) - 1 :: int(count)]


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size takes auto or a positive number, got {text!r}")
    return int(text)


def _summary(done: Extraction, seconds: float) -> str:
    parts = [
        f"{done.extracted} extracted",
        f"{done.present} already there",
        f"{len(done.failures)} failed",
    ]
    if done.extracted and seconds > 0:
        parts.append(f"{done.extracted / seconds:.1f} images/s")
    return ", ".join(parts)
