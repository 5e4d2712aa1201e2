"""An exported model is the model: the same numbers at any size, behind the same scorer."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import numpy as np
import pytest
import torch

import ma_agiqa
from conftest import REPOSITORY
from export.conftest import guide
from ma_agiqa.bench.models import DirectorySpec
from ma_agiqa.errors import MissingExtraError, ModelError, UsageError
from ma_agiqa.export.graph import to_program
from ma_agiqa.models import checkpoint
from ma_agiqa.models.compact.model import CompactModel, content_view
from ma_agiqa.models.exported import INPUTS
from ma_agiqa.models.prediction import Prediction
from ma_agiqa.models.registry import MODELS, find_directory
from ma_agiqa.scorer import Scorer
from ma_agiqa.training.network import find_start
from support.command_line import run

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

PICTURES = sorted((REPOSITORY / "examples/pictures").glob("*.jpg"))
ROUNDING = 1e-4
"""Of a score from 0 to 5: the order of sums differs; 3e-6 was seen."""


@pytest.fixture(scope="module")
def scorer(exported: Path) -> Scorer:
    return ma_agiqa.load(exported)


@pytest.mark.parametrize(
    ("count", "height", "width"),
    # Multiples of 16 and others, wider and higher, the least side, and maps of an odd side.
    [(1, 512, 512), (1, 32, 32), (3, 33, 47), (1, 101, 64), (2, 64, 99), (1, 207, 306)],
)
def test_the_graph_is_the_network_at_sizes_that_the_exporter_never_saw(
    program: ONNXProgram, original: Scorer, count: int, height: int, width: int
) -> None:
    from torch.onnx.testing import assert_onnx_program

    torch.manual_seed(height)
    images = torch.rand(count, 3, height, width)
    whole = content_view(images, side=original.model.content_side or 0)
    assert_onnx_program(program, args=(images, whole), rtol=1e-4, atol=1e-5)


def test_scores_and_reasons_of_pictures_are_the_same(scorer: Scorer, original: Scorer) -> None:
    assert len(PICTURES) == 15
    ours = list(scorer.score(PICTURES, explain=True))
    theirs = list(original.score(PICTURES, explain=True))
    for our, their in zip(ours, theirs, strict=True):
        assert our.score == pytest.approx(their.score, abs=ROUNDING)
        own = {key: getattr(our, key) for key in ("score", "percentile", "interval")}
        assert our.to_row() == their.to_row() | own
        assert our.interval == pytest.approx(their.interval, abs=ROUNDING)
        assert our.percentile == pytest.approx(their.percentile, abs=0.1)
        assert our.contributions == pytest.approx(their.contributions, abs=ROUNDING)
        np.testing.assert_allclose(our.weight_map, their.weight_map, rtol=1e-3, atol=1e-8)
        # A quotient by a small weight; the scale has 5.
        np.testing.assert_allclose(our.quality_map, their.quality_map, rtol=0, atol=5e-3)


def test_scores_of_a_hundred_generated_pictures_are_the_same(
    scorer: Scorer, original: Scorer, agiqa_3k: Path
) -> None:
    with (agiqa_3k / "data.csv").open(newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    files = [agiqa_3k / "images" / name for name in names[:: len(names) // 100][:100]]
    ours, theirs = ([float(one) for one in two.score(files)] for two in (scorer, original))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ROUNDING)


def test_a_score_does_not_depend_on_what_is_beside_it(exported: Path) -> None:
    together = ma_agiqa.load(exported, batch_size=8, workers=4)
    alone = ma_agiqa.load(exported, batch_size=1, workers=1)
    scores = [[one.score for one in two.score(PICTURES[:6])] for two in (together, alone)]
    assert scores[0] == scores[1]


def test_pickled_and_forked_scorers_go_on(scorer: Scorer) -> None:
    expected = scorer(PICTURES[0]).score
    assert pickle.loads(pickle.dumps(scorer))(PICTURES[0]).score == expected
    if sys.platform == "win32":
        return
    child = os.fork()
    if child == 0:
        os._exit(0 if scorer(PICTURES[0]).score == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_folder_is_a_model_directory(exported: Path) -> None:
    directory = MODELS["compact"].directory
    assert directory is not None
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md",
        "config.json",
        "model.onnx",
    ]
    assert checkpoint.read_config(exported) == checkpoint.read_config(directory)
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert card.startswith((directory / "README.md").read_text(encoding="utf-8").rstrip())
    assert "## As ONNX" in card
    # Weights are stored as float16, as they are in the package.
    sizes = [
        path.stat().st_size for path in (exported / "model.onnx", directory / "model.safetensors")
    ]
    assert sizes[0] < 1.05 * sizes[1]
    assert checkpoint.fingerprint(exported) != checkpoint.fingerprint(directory)


def test_the_file_tells_nothing_of_the_machine(exported: Path) -> None:
    content = (exported / "model.onnx").read_bytes()
    assert str(REPOSITORY).encode() not in content
    assert b".py" not in content


class Hub:
    """Stands in for the Hub: keeps those files of a folder that were asked for."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.revisions: set[str | None] = set()

    def snapshot_download(
        self, name: str, *, revision: str | None, allow_patterns: list[str], **options: object
    ) -> str:
        self.revisions.add(revision)
        self.cache.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                shutil.copyfile(path, self.cache / path.name)
        return str(self.cache)

    def file_exists(
        self, name: str, file: str, *, revision: str | None, token: str | bool | None
    ) -> bool:
        self.revisions.add(revision)
        return (self.folder / file).is_file()

    @property
    def fetched(self) -> list[str]:
        return sorted(path.name for path in self.cache.iterdir())


@pytest.fixture
def hub(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub that has what an export with a page writes."""
    folder = Path(shutil.copytree(exported, tmp_path / "on-the-hub"))
    (folder / "index.html").write_text("the page")
    hub = Hub(folder, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_the_hub_gives_an_exported_model(hub: Hub, scorer: Scorer) -> None:
    found = ma_agiqa.load("somebody/compact-onnx", revision="v1")
    assert found(PICTURES[0]).score == scorer(PICTURES[0]).score
    assert found.name == "compact@v1"
    assert hub.fetched == ["README.md", "config.json", "model.onnx"]
    assert hub.revisions == {"v1"}


def test_a_repository_with_weights_gives_these_and_no_graph(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    shutil.copy(MODELS["compact"].directory / "model.safetensors", hub.folder)  # type: ignore[operator]
    assert not ma_agiqa.load("somebody/both").model.exported
    assert hub.fetched == ["README.md", "config.json", "model.safetensors"]
    # The same holds where the cache happens to have both.
    shutil.copy(hub.folder / "model.onnx", hub.cache)
    assert not ma_agiqa.load("somebody/both").model.exported
    assert not ma_agiqa.load(hub.cache).model.exported


def test_a_repository_without_a_model_is_one_error(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub.folder / "model.onnx").unlink()
    for hidden in ((), ("onnxruntime",)):
        for name in hidden:
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ModelError, match=r"neither model\.safetensors nor model\.onnx"):
            ma_agiqa.load("somebody/else")


def test_a_graph_that_is_in_the_cache_is_asked_for_no_more(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_directory("somebody/compact-onnx")

    def offline(*arguments: object, **options: object) -> bool:
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline mode is on")

    monkeypatch.setattr(hub, "file_exists", offline)
    assert ma_agiqa.load("somebody/compact-onnx").model.exported
    (hub.cache / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"somebody/compact-onnx: .*offline mode .*HF_HUB_OFFLINE"):
        find_directory("somebody/compact-onnx")
    with pytest.raises(ModelError, match="neither"):
        find_directory("somebody/compact-onnx", local_files_only=True)


def test_a_benchmark_knows_it_by_its_content(exported: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    first, same = (DirectorySpec("m", str(one)).digest([]) for one in (exported, copy))
    assert first == same
    (copy / "model.onnx").write_bytes(b"other")
    assert DirectorySpec("m", str(copy)).digest([]) != first


def test_gradients_are_refused(scorer: Scorer) -> None:
    with pytest.raises(UsageError, match="gives no gradients"):
        scorer.model(torch.rand(1, 3, 64, 64, requires_grad=True))


def test_it_cannot_be_trained(exported: Path) -> None:
    with pytest.raises(UsageError, match="an exported model cannot be trained"):
        find_start(str(exported))


def test_without_onnxruntime_the_extra_is_named(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"'onnxruntime'.*\[onnx\]"):
        ma_agiqa.load(exported)


def test_without_onnxruntime_the_graph_is_neither_read_nor_fetched(
    hub: Hub, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(checkpoint, "sha256", lambda *files: pytest.fail(f"{files} were read"))
    with pytest.raises(MissingExtraError, match=r"'onnxruntime'.*\[onnx\]"):
        ma_agiqa.load("somebody/compact-onnx")
    assert hub.fetched == ["README.md", "config.json"]
    for command, *words in (
        ("score",),
        ("score-many", "--out", tmp_path / "out"),
        ("gallery", "--out", tmp_path / "out.html"),
    ):
        done = run(command, PICTURES[0].parent, "--model", exported, *words)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith("error: this needs the package 'onnxruntime'")
        assert done.stderr.count("\n") == 1
        assert "[onnx]" in done.stderr
    with pytest.raises(UsageError, match="an exported model cannot be trained"):
        find_start(str(exported))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_exporter_the_command_ends_at_once(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **options: object) -> None:
        pytest.fail("went on")

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("ma_agiqa.hub.fetch", never)
    monkeypatch.setattr("ma_agiqa.models.registry.fetch", never)
    monkeypatch.setattr(checkpoint, "load", never)
    for model in ("compact", "somebody/mine"):
        done = run("export", "--model", model, "--out", tmp_path / "out")
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: this needs the package '{package}'")
        assert done.stderr.count("\n") == 1
        assert "[onnx]" in done.stderr
    assert not (tmp_path / "out").exists()


def test_without_the_exporter_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"'onnxscript'.*\[onnx\]"):
        to_program(CompactModel())


@pytest.mark.parametrize("left", [0, 1000, 8_000_000])
def test_a_damaged_file_is_one_error(exported: Path, tmp_path: Path, left: int) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    (copy / "model.onnx").write_bytes((exported / "model.onnx").read_bytes()[:left])
    with pytest.raises(ModelError, match=r"model\.onnx: .*\(export it again with"):
        ma_agiqa.load(copy)


def test_a_foreign_graph_is_one_error(exported: Path, tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "foreign", ends[:1], ends[1:]
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), copy / "model.onnx")
    with pytest.raises(ModelError, match="not an exported model of this package"):
        ma_agiqa.load(copy)


@pytest.mark.parametrize("kind", ["Identity", "Shape", "SequenceConstruct"])
def test_a_graph_that_gives_something_else_is_one_error(
    exported: Path, tmp_path: Path, kind: str
) -> None:
    from onnx import TensorProto, ValueInfoProto, helper, save

    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    outputs = [name for name in Prediction._fields if name not in Prediction._field_defaults]
    pixels = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3, None, None])
        for name in INPUTS
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, ["images"], [name]) for name in outputs],
        "foreign",
        pixels,
        [ValueInfoProto(name=name) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    save(model, copy / "model.onnx")
    scorer = ma_agiqa.load(copy)
    with pytest.raises(ModelError, match=r"model\.onnx: gives .* for score, expected"):
        scorer(PICTURES[0], explain=True)


def test_only_what_is_like_compact_can_be_exported(exported: Path, tmp_path: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    paper = tmp_path / "paper"
    paper.mkdir()
    config |= {"name": "mine", "architecture": "ma-agiqa", "network": {}}
    (paper / "config.json").write_text(json.dumps(config))
    for model, reason in (
        (paper, "'mine' cannot be exported: its architecture is 'ma-agiqa'"),
        (exported, "is an exported model already"),
        ("compat", "no model named 'compat'"),
        ("paper", "'paper' does not ship"),
    ):
        done = run("export", "--model", model, "--out", tmp_path / "out")
        assert (done.exit_code, done.stdout) == (2, "")
        assert reason in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_export_replaces_an_export_and_nothing_else(
    quick_export: None, exported: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(MODELS["compact"].directory or "", tmp_path / "model"))
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "mine.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (model, notes, file, file / "below"):
        done = run("export", "--out", out)
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"error: {out}: " in done.stderr
    assert (model / "model.safetensors").is_file()
    assert file.read_text() == (notes / "mine.txt").read_text() == "mine"
    earlier = Path(shutil.copytree(exported, tmp_path / "earlier"))
    (earlier / "model.onnx").write_bytes(b"old")
    assert run("export", "--out", earlier, "--quiet").stderr == ""
    assert (earlier / "model.onnx").read_bytes() == (exported / "model.onnx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["earlier", "file", "model", "notes"]


def test_a_graph_that_scores_otherwise_is_not_written(
    quick_export: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        CompactModel, "forward", lambda self, images: Prediction(*5 * [images.mean()])
    )
    done = run("export", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "exports a graph that scores" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_card_is_found_before_the_graph_is_made(tmp_path: Path) -> None:
    model = Path(shutil.copytree(MODELS["compact"].directory or "", tmp_path / "model"))
    (model / "README.md").write_bytes(b"# A card \xff\n")
    done = run("export", "--model", model, "--out", tmp_path / "out", "--quiet")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {model / 'README.md'}: cannot be read")
    assert done.stderr.count("\n") == 1


def test_the_page_needs_the_runtime(tmp_path: Path) -> None:
    for words, reason in (
        (["--web"], "--web and --runtime go together"),
        (["--runtime", tmp_path], "--web and --runtime go together"),
        (["--web", "--runtime", tmp_path], "is not the folder dist of onnxruntime-web"),
    ):
        done = run("export", "--out", tmp_path / "out", *words)
        assert done.exit_code == 2
        assert reason in done.stderr
        assert "npm install onnxruntime-web" in done.stderr


def test_the_commands_of_the_guide_run(
    quick_export: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-images").mkdir()
    shutil.copy(PICTURES[0], tmp_path / "my-images")
    export, score, web = guide()
    for words in (export, score):
        done = run(*words)
        assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "compact"
    assert "--web" in web
