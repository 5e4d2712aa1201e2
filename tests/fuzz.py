"""Damaged and hostile files: whatever reads one gives a result or an error of this package.

    python tests/fuzz.py --minutes 10 [--target config] [--seed 1]

Every target makes a sound file and says what reads it. A case is that file with some bytes
changed, cut, doubled or replaced; what comes out other than a result or a `MAAGIQAError` is
printed with the case's number, which repeats it. `test_fuzz.py` runs a bounded share in the gate.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import pickle
import random
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from ma_agiqa.bench.grid import read_grid
from ma_agiqa.cli.journal import Journal
from ma_agiqa.cli.results import is_results, read_results, write_table
from ma_agiqa.data import sources
from ma_agiqa.data.samples import TableColumns, load_table
from ma_agiqa.errors import ImageError, MAAGIQAError
from ma_agiqa.evaluation.evaluate import read_scores
from ma_agiqa.export.folder import write_folder
from ma_agiqa.features.store import FeatureStore, Header, read_header, write_shard
from ma_agiqa.gallery import arrange
from ma_agiqa.images import read_image
from ma_agiqa.lmm.encoder import Question
from ma_agiqa.metadata import generation_of
from ma_agiqa.models import checkpoint, registry
from ma_agiqa.models.paper.convert import read_checkpoint
from ma_agiqa.scorer import load
from ma_agiqa.serving import contracts
from ma_agiqa.types import ROW_KEYS
from support import many_pictures as many
from support.command_line import save_model

EXPORT = ("onnx", "onnxscript", "onnxruntime")
NUMBERS = (b"NaN", b"-1", b"1e999", b"0", b"99999999999999999999", b"null", b"[]", b"{}", b'"x"')


class Target(NamedTuple):
    """Something that is read.

    Attributes:
        make: writes sound files into a folder and returns the one to be damaged.
        read: reads it.
        share: of all cases.
        needs: packages that are not there in every installation.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    share: int = 1
    needs: tuple[str, ...] = ()


def picture(kind: str, **options: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"picture.{kind}", **options)
        return folder / f"picture.{kind}"

    return make


def model_directory(folder: Path) -> Path:
    return save_model(folder / "model", seed=0)


@cache
def exported_files() -> dict[str, bytes]:
    """Export a tiny model, once in a process: it takes half a minute."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny = save_model(folder / "tiny", seed=0, width_factor=0.02)
        model, config = checkpoint.load(tiny)
        # In float16, as the weights that ship: the graph has nodes that widen them.
        checkpoint.save(folder / "half", model.half().float(), config, card="for a test")
        write_folder(folder / "half", folder / "exported")
        return {path.name: path.read_bytes() for path in (folder / "exported").iterdir()}


def exported(folder: Path) -> Path:
    (folder / "exported").mkdir()
    for name, content in exported_files().items():
        (folder / "exported" / name).write_bytes(content)
    return folder / "exported"


def read_exported(path: Path) -> object:
    """Score a picture and say why; a graph may be damaged where only a run finds it."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    checkpoint.fingerprint(path)
    checkpoint.read_card(path)
    return load(path, workers=1)(pixels, explain=True)


def official(folder: Path) -> Path:
    torch.save({"a.weight": torch.arange(6.0), "b": torch.ones(2, 2)}, folder / "official.pt")
    return folder / "official.pt"


def table(folder: Path) -> Path:
    text = io.StringIO()
    csv.writer(text).writerows([["image", "score"], *([f"{n}.png", n / 7] for n in range(9))])
    (folder / "table.csv").write_text(text.getvalue())
    return folder / "table.csv"


def parquet(folder: Path) -> Path:
    import pandas as pd

    columns = {"image": [f"{n}.png" for n in range(9)], "score": [n / 7 for n in range(9)]}
    pd.DataFrame(columns).to_parquet(folder / "table.parquet")
    return folder / "table.parquet"


def scores(folder: Path) -> Path:
    (folder / "scores.csv").write_text("name,score\na.png,1.5\nb.png,2.5\nc.png,3.5\n")
    return folder / "scores.csv"


def grid(folder: Path) -> Path:
    (folder / "grid.toml").write_text(
        'title = "fuzz"\nseeds = [0, 1]\nresamples = 100\n\n'
        f'[[data]]\ndata = "table.csv"\nroot = "{folder}"\nsplits = ["random-0..1"]\n\n'
        '[[model]]\nkind = "train"\nname = "ours"\nmodel = "compact"\nsettings = ["epochs=1"]\n'
    )
    return folder / "grid.toml"


PARAMETERS = "a fox\nNegative prompt: fog\nSteps: 20, Sampler: Euler, Seed: 5, Model: dream"
GRAPH = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 5, "positive": ["2", 0], "model": ["3", 0]}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}},
    "3": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dream"}},
}


def generated(folder: Path) -> Path:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", PARAMETERS)
    info.add_text("prompt", json.dumps(GRAPH))
    Image.new("RGB", (2, 2)).save(folder / "generated.png", pnginfo=info)
    return folder / "generated.png"


def read_source(path: Path) -> None:
    """Read every image of a source; one that cannot be had is an error of its own."""
    for unit in sources.plan(str(path), column=None if path.is_dir() else "image"):
        for item in unit.items():
            with contextlib.suppress(ImageError):
                item.read()


def results(folder: Path) -> Path:
    row = dict.fromkeys(ROW_KEYS) | {"path": "a.png", "score": 1.25, "low": 0.0, "high": 5.0}
    write_table(folder / "results.csv", [row, row])
    return folder / "results.csv"


def sidecar(folder: Path) -> Path:
    Image.new("RGB", (40, 40)).save(folder / "rated.png")
    arrange.write_rating(RATED | {"path": str(folder / "rated.png")}, ["adobe"])
    return folder / "rated.xmp"


RATED = {"score": 1.5, "percentile": 50.0}


def rate(path: Path) -> object:
    return arrange.write_rating(RATED | {"path": str(path.with_suffix(".png"))}, ["adobe"])


def reward(folder: Path) -> Path:
    request = {"images": [b"one", b"two"], "prompts": np.array(["a", "b"])}
    (folder / "reward.pickle").write_bytes(pickle.dumps(request))
    return folder / "reward.pickle"


HEADER = Header(encoder={"encoder": "made up"}, width=4, questions=(Question("q", "why?"),))


def store(folder: Path) -> Path:
    HEADER.write(folder / "store")
    name = folder / "store" / "shards" / "one.safetensors"
    hashes = [f"{number:064x}" for number in range(3)]
    write_shard(name, torch.ones(3, 1, 4).half(), hashes, encoder=HEADER.fingerprint)
    return folder / "store"


def read_store(path: Path) -> object:
    opened = FeatureStore.open(path)
    return [opened.get([f"{n:064x}"]) for n in range(3) if opened.has(f"{n:064x}")]


def journal(folder: Path) -> Path:
    kept = Journal(folder / "scores.csv", model="m")
    for number in range(3):
        kept.append("0" * 64, dict.fromkeys(ROW_KEYS) | {"path": f"{number}.png", "score": 1.0})
    kept.close()
    return kept.path


def read_journal(path: Path) -> object:
    kept = Journal(path.with_suffix(""), model="m")
    try:
        return [kept.reusable(f"{n}.png", "0" * 64) for n in range(3) if kept.knows(f"{n}.png")]
    finally:
        kept.close()


def inside(make: Callable[[Path], Path], *names: str) -> Callable[[Path], Path]:
    return lambda folder: make(folder).joinpath(*names)


TARGETS: dict[str, Target] = {
    **{
        name: Target(picture(name), read_image, share=3)
        for name in ("png", "jpg", "webp", "avif", "bmp", "gif", "tiff")
    },
    "lzw.tiff": Target(picture("tif", compression="tiff_lzw"), read_image, share=2),
    "config": Target(
        inside(model_directory, checkpoint.CONFIG), lambda p: checkpoint.load(p.parent), share=3
    ),
    "weights": Target(
        inside(model_directory, checkpoint.WEIGHTS), lambda p: checkpoint.load(p.parent)
    ),
    **{
        f"exported {name}": Target(
            inside(exported, name), lambda p: read_exported(p.parent), share, needs=EXPORT
        )
        for name, share in ((registry.GRAPH, 1), (registry.CONFIG, 2), (registry.CARD, 1))
    },
    "official": Target(official, read_checkpoint, share=2),
    "table": Target(table, lambda p: load_table(p, p.parent, TableColumns()), share=2),
    "parquet": Target(parquet, lambda p: load_table(p, p.parent, TableColumns())),
    "scores": Target(scores, read_scores, share=2),
    "grid": Target(grid, read_grid, share=2),
    "header": Target(inside(store, "encoder.json"), lambda p: read_header(p.parent), share=2),
    "index": Target(inside(store, "shards", "one.json"), lambda p: read_store(p.parents[1])),
    "shard": Target(inside(store, "shards", "one.safetensors"), lambda p: read_store(p.parents[1])),
    "metadata": Target(generated, lambda p: generation_of(p.read_bytes()), share=2),
    "tar": Target(lambda p: many.tar(p / "a.tar", many.pngs(2)), read_source, share=2),
    "tar.gz": Target(lambda p: many.tar(p / "a.tar.gz", many.pngs(2)), read_source, share=2),
    "zip": Target(lambda p: many.zipped(p / "a.zip", many.pngs(2)), read_source, share=2),
    "images.parquet": Target(
        lambda p: many.parquet(p / "a.parquet", many.pngs(4)), read_source, share=2
    ),
    "images.arrow": Target(
        inside(
            lambda p: many.saved_dataset(p / "saved", many.pngs(2)), "data-00000-of-00002.arrow"
        ),
        lambda p: read_source(p.parent),
    ),
    "results": Target(results, lambda p: is_results(p) and read_results(p), share=2),
    "sidecar": Target(sidecar, rate, share=2),
    "reward": Target(reward, lambda p: contracts.pickled(p.read_bytes()), share=2),
    "journal": Target(journal, read_journal, share=3),
}


def damaged(sound: bytes, rng: random.Random) -> bytes:
    """Return the content changed in one of the ways that disks, networks and people do."""
    data = bytearray(sound)
    at, length = rng.randrange(len(data)), rng.choice((1, 2, 8, 64))
    way = rng.randrange(8)
    if way == 0:
        for _ in range(rng.choice((1, 1, 5, 40))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == 1:
        del data[at:]
    elif way == 2:
        del data[at : at + length]
    elif way == 3:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif way == 4:
        data[at : at + length] = rng.randbytes(length)
    elif way == 5:
        data[at:at] = data[at : at + length] * rng.choice((1, 100))
    elif way == 6:
        data[at : at + length] = rng.choice(NUMBERS)
    else:
        other = rng.randrange(len(data))
        data = data[:at] + data[other:]
    return bytes(data)


def in_values(sound: bytes, rng: random.Random) -> bytes:
    """Return JSON with one value replaced, so that damage lies behind the parser."""
    tree = json.loads(sound)
    place, key = tree, None
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = rng.choice(keys)
        if not isinstance(place[key], dict | list) or rng.random() < 0.3:
            break
        place = place[key]
    if key is not None and isinstance(place, dict | list) and place:
        place[key] = rng.choice((None, -1, 0, 1e300, 10**20, "x", [], {}, [[]], True, 0.5, ""))
    return json.dumps(tree).encode()


def in_nodes(sound: bytes, rng: random.Random) -> bytes:
    """Return an ONNX graph with one node or tensor changed, to be found when it is run or never."""
    import onnx

    model = onnx.load_model_from_string(sound)
    graph = model.graph
    node, tensor = rng.choice(graph.node), rng.choice(graph.initializer)
    way = rng.randrange(7)
    if way == 0:
        node.op_type = rng.choice(graph.node).op_type
    elif way == 1:
        node.input[rng.randrange(len(node.input))] = rng.choice(graph.initializer).name
    elif way == 2:
        node.input[rng.randrange(len(node.input))] = rng.choice(graph.node).output[0]
    elif way == 3:
        graph.node.remove(node)
    elif way == 4:
        attribute = rng.choice([one for each in graph.node for one in each.attribute])
        attribute.i, attribute.f = rng.choice((0, -1, 2**31, 2**62)), rng.choice((-1.0, 1e30))
        attribute.ints[:] = [rng.choice((0, -1, 7, 2**31)) for _ in attribute.ints]
    elif way == 5 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((0, -1, 1, 5, 2**31, 2**62))
    else:
        tensor.data_type = rng.randrange(20)
    return model.SerializeToString()


BEHIND_THE_PARSER = {".json": in_values, ".onnx": in_nodes}
"""By the suffix of a file: how to damage what its parser lets through."""


def attack(name: str, case: int, folder: Path, sound: bytes, path: Path) -> str | None:
    """Read one damaged file; return the traceback of what should not have come out of it."""
    rng = random.Random(f"{name} {case}")
    behind = path.suffix in BEHIND_THE_PARSER and rng.random() < 0.5
    damage = BEHIND_THE_PARSER[path.suffix] if behind else damaged
    path.write_bytes(damage(sound, rng))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[name].read(path)
    except MAAGIQAError:
        return None
    except Exception:
        return traceback.format_exc()
    return None


def run(name: str, cases: range, folder: Path) -> list[str]:
    """Attack one target; return what came out that should not have."""
    path = TARGETS[name].make(folder)
    sound = path.read_bytes()
    TARGETS[name].read(path)  # what is not damaged is read
    found = []
    for case in cases:
        path.write_bytes(sound)
        if trace := attack(name, case, folder, sound, path):
            found.append(f"{name} {case}\n{trace}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    end, tried, faults = time.monotonic() + 60 * options.minutes, 0, 0
    start = options.seed * 1_000_000
    while time.monotonic() < end:
        for name in options.target or TARGETS:
            with tempfile.TemporaryDirectory() as folder:
                cases = range(start, start + 50)
                found = run(name, cases, Path(folder))
            tried, faults = tried + len(cases), faults + len(found)
            print("\n".join(found), end="", flush=True)
        start += 50
    print(f"{tried} inputs, {faults} faults")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
