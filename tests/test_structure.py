"""The promises of the layout: imports point one way, the surface is small, imports are light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ma_agiqa

SOURCE = Path(ma_agiqa.__file__).resolve().parent

LAYERS = [
    {"errors", "text", "types", "version"},
    {"config", "presets", "images", "image_formats", "files", "provenance", "devices"},
    {"lanes", "lookahead"},
    {"transforms", "experts", "lmm", "fusion"},
    {"model", "checkpoints", "convert", "hub"},
    {"data", "features"},
    {"training", "evaluation", "explain", "inference"},
    {"bench"},
    {"scale", "serving", "cli", "__main__"},
]
"""A module may import from its own layer and from those above it in this list."""

# `experts/semantic.py` and `lmm/` live in one layer by design; within a layer any import goes.


def room(module: str) -> str:
    """Return the first part of a module's name below the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def modules() -> list[Path]:
    return sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")


def imported(tree: ast.AST) -> set[str]:
    """Return the names of this package's modules that a file imports, lazily or not."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "ma_agiqa":
            found.update(f"ma_agiqa.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "ma_agiqa"}


def layer(name: str) -> int:
    for level, rooms in enumerate(LAYERS):
        if name in rooms:
            return level
    pytest.fail(f"{name} has no place in LAYERS: give it one")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    relative = path.relative_to(SOURCE).with_suffix("")
    own = layer(relative.parts[0])
    for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        if room(name) != "__init__":
            assert layer(room(name)) <= own, f"{relative} imports {name}, which lies above it"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_file_is_a_crowded_room(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600


def test_the_public_surface_is_these_five_names() -> None:
    assert sorted(ma_agiqa.__all__) == ["MAAGIQAError", "Score", "Scorer", "__version__", "load"]
    for name in ma_agiqa.__all__:
        assert getattr(ma_agiqa, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'socre'"):
        ma_agiqa.socre  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, ma_agiqa; print(*sys.modules)"
    names = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "ma_agiqa" in names
    assert not {"torch", "numpy", "PIL", "scipy", "pyarrow"} & set(names)
