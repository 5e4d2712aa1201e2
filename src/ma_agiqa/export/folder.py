"""The folder that an export is: a model directory with `model.onnx` in place of its weights.

    model.onnx, config.json, README.md      what `ma_agiqa.load` takes
    index.html and the files of RUNTIME     with a page: it needs nothing else, and no server but
                                            one that hands out files

`config.json` is that of the model. This file does not make the graph (`graph.py`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from ma_agiqa.errors import ModelError, UsageError
from ma_agiqa.export.graph import NEWER, to_model, to_program
from ma_agiqa.models import checkpoint, registry
from ma_agiqa.models.compact.model import CompactModel
from ma_agiqa.models.exported import ExportedNetwork
from ma_agiqa.version import __version__

PAGE = Path(__file__).with_name("page.html")
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""What the page needs of onnxruntime-web."""
NPM = "npm install onnxruntime-web"
OTHER_SIDES = (99, 131)
"""Of the picture that the graph is tried on: odd, as the maps are, and not what it was made at."""
TOLERANCE = 1e-3
"""Share of the scale."""

CARD = """

## As ONNX

Exported with ma-agiqa {version}. `ma_agiqa.load` takes this folder; `model.onnx` also runs without
this package. B pictures of H x W pixels:

| | name | shape |
|---|---|---|
| input | `images` | (B, 3, H, W) |
| input | `whole` | (B, 3, H', W') |
| output | `score` | (B) |
| output | `contributions`, `bias` | (B, 2), (B) |
| output | `contribution_map`, `weight_map` | (B, rows, columns), a place for 8 x 8 pixels |

`images` are sRGB in [0, 1], of any size from {least} pixels on; above {most} pixels reduce them.
`whole` is the same resized to the area of {side} x {side} pixels in their proportions: bicubic with
antialiasing, a = -0.5, cut off at 0 and 1. `score` is on a scale from {low:g} to {high:g} and not
cut off. `contributions`, those of {experts}, and `bias` sum to it. `contribution_map` is what each
place adds to the last of them, `weight_map` how much it counts.
"""


def write_folder(directory: Path, out: Path, *, runtime: Path | None = None) -> None:
    """Export a model directory.

    Args:
        out: an earlier export there is replaced, anything else is not.
        runtime: the folder `dist` of onnxruntime-web; with it a page is written too.

    Raises:
        UsageError: the model cannot be exported, or `runtime` is another folder.
        ModelError: the graph gives other scores than the model; nothing was written.
        OutputError: `out` is something else, or cannot be written.
        MissingExtraError: the exporter or onnxruntime is not installed.
    """
    config = checkpoint.read_config(directory)
    if config.architecture != "compact":
        raise UsageError(
            f"{config.name!r} cannot be exported: its architecture is {config.architecture!r}",
            remedy="export `compact` or a model trained from it",
        )
    if registry.is_exported(directory):
        raise UsageError(
            f"{directory}: is an exported model already",
            remedy="give the model directory that it was exported from",
        )
    if runtime is not None:
        missing = [name for name in RUNTIME if not (runtime / name).is_file()]
        if missing:
            raise UsageError(
                f"{runtime}: has no {missing[0]}, so it is not the folder dist of onnxruntime-web",
                remedy=NPM,
            )
        if config.preprocess.kind != "native":
            raise UsageError(f"the page cannot prepare pictures as {config.preprocess.kind!r}")
    checkpoint.require_replaceable(out, registry.GRAPH)
    card = checkpoint.read_card(directory) or f"# {config.name}"
    network, _ = checkpoint.load(directory)
    assert isinstance(network, CompactModel)
    model = to_model(to_program(network))

    def write(fresh: Path) -> None:
        (fresh / registry.GRAPH).write_bytes(model.SerializeToString())
        _require_same(fresh / registry.GRAPH, network)
        if runtime is not None:
            shutil.copyfile(PAGE, fresh / "index.html")
            for name in RUNTIME:
                shutil.copyfile(runtime / name, fresh / name)

    prepare = config.preprocess
    notes = CARD.format(
        version=__version__,
        least=f"{prepare.min_side} x {prepare.min_side}",
        most=prepare.max_pixels,
        side=network.content_side,
        low=config.scale.low,
        high=config.scale.high,
        experts=" and ".join(network.experts),
    )
    checkpoint.save_files(out, write, config, card=card.rstrip() + notes, replaces=registry.GRAPH)


def _require_same(graph: Path, network: CompactModel) -> None:
    """Try the graph on a picture of a size that the exporter did not see."""
    images = torch.rand(1, 3, *OTHER_SIDES)
    with torch.inference_mode():
        ours, theirs = (
            one(images).score.item() for one in (ExportedNetwork(graph, network), network)
        )
    if not abs(ours - theirs) <= TOLERANCE * 5 * network.unit:
        raise ModelError(
            f"torch {torch.__version__} exports a graph that scores {ours:.4f} in place of "
            f"{theirs:.4f}",
            path=graph.name,
            remedy=NEWER,
        )
