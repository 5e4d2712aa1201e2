"""Where the tests find real data, and how they skip when it is not there.

The reference outputs and AGIQA-3K are not part of this repository. They are looked for in
`$MA_AGIQA_SHARED`, then in `../shared` beside the checkout; tests that need them skip with
that reason in a plain clone.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from ma_agiqa.lmm.mplug_owl2 import MPLUGOwl2

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MA_AGIQA_SHARED", REPOSITORY.parent / "shared"))


SLOW = {
    *("bench", "benchmarks", "cli", "export", "training", "test_crash_points", "test_isolation"),
    *("test_gallery_in_a_browser", "test_serve_command"),
    *("test_damage_lowers_scores", "test_devices", "test_docs_lmms", "test_fuzz"),
    *("test_handcrafted", "test_model", "test_official_checkpoint"),
    *("test_other_sizes_keep_the_ranking", "test_probe", "test_processes", "test_readme"),
    *("test_sample_pictures", "test_semantic_scoring", "test_shipped_compact", "test_store"),
    *("scale", "test_integrations_page", "test_torchmetrics"),
    *("test_transformers", "test_verify", "test_visual_parity", "test_walkthrough"),
    *("test_walkthrough_benchmark", "test_weights"),
}
"""Folders and files whose tests take most of the time: `make check` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW & {item.path.stem, item.path.parent.name}:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process whole files of tests, and those of exports, made once, to the same one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "export" if "/export/" in nodeid else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # each process of several has a core
        import torch

        torch.set_num_threads(1)


def _shared(part: str) -> Path:
    folder = SHARED / part
    if not folder.is_dir():
        pytest.skip(f"{part} not found in {SHARED}; set MA_AGIQA_SHARED to the folder holding it")
    return folder


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of outputs recorded from the official code."""
    return _shared("fixtures")


@pytest.fixture(scope="session")
def agiqa_3k() -> Path:
    """Root of AGIQA-3K: `data.csv`, `images/`, `splits/`."""
    return _shared("datasets/agiqa-3k")


@pytest.fixture(scope="session")
def datasets() -> Path:
    """Folder of annotation files of the other data sets."""
    return _shared("datasets")


@pytest.fixture(scope="session")
def tiny_compact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny `compact` network with random weights."""
    from support.command_line import save_model

    return save_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with five pictures, one of them further down."""
    import numpy as np
    from PIL import Image

    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name in ["a.png", "b.jpg", "below/c.png", "d.bmp", "e.PNG"]:
        pixels = np.random.default_rng(len(name)).integers(0, 256, (32, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels // (ord(name[0]) - ord("a") + 1)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_text("not looked at")
    return folder


@pytest.fixture
def twelve(tmp_path: Path) -> list[Path]:
    """Twelve pictures of several sizes, those of one size not all in a row."""
    from support.tiny_scorer import write_pictures

    return write_pictures(tmp_path)


@pytest.fixture(scope="session")
def lmm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny random mPLUG-Owl2 in its published layout."""
    pytest.importorskip("sentencepiece", reason="needs the extra 'paper'")
    from support import owl_checkpoint

    return owl_checkpoint.write(tmp_path_factory.mktemp("lmm") / "tiny")


@pytest.fixture
def owl() -> MPLUGOwl2:
    """A tiny mPLUG-Owl2 that a test may change."""
    from support import tiny_owl

    return tiny_owl.model()


@pytest.fixture
def pixels() -> Tensor:
    """Four pictures for it, (4, 3, 56, 56)."""
    import torch

    from support.reference import images

    return torch.from_numpy(images(4, 56, seed=7))


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random checkpoint of one family of LMMs, where all would do."""
    pytest.importorskip("transformers", reason="needs the extra 'lmm'")
    from support import tiny_lmms

    return tiny_lmms.write("qwen2_5_vl", tmp_path_factory.mktemp("lmm") / "qwen")


@pytest.fixture
def qwen_copy(qwen: Path, tmp_path: Path) -> Path:
    """One that a test may damage."""
    return Path(shutil.copytree(qwen, tmp_path / "copy"))
