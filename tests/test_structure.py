"""The promises of the layout: imports point one way, the surface is small, imports are light."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import ma_agiqa

SOURCE = Path(ma_agiqa.__file__).resolve().parent

LAYERS = [
    {"errors", "text", "types", "version"},
    {"allocator", "config", "files", "hub", "images", "provenance"},
    {"devices", "metadata"},
    {"isolation"},
    {"data", "lmm"},
    {"models"},
    {"features"},
    {"scorer"},
    {"evaluation"},
    {"training"},
    {"bench"},
    {"export", "gallery", "integrations", "scale", "serving"},
    {"cli"},
    {"__main__"},
]
"""A package or a file beside them imports from itself and from layers further up in this list, so
no two of them import each other, not even by way of others or inside a function."""

ROOMS = {"bench", "cli", "data", "evaluation", "export", "features", "lmm", "models", "training"}
"""Packages whose files are rooms, not cells: see `test_no_file_is_a_cell`."""

SMALL = 60
"""Lines below which a file with one importer belongs inside that importer."""


def room(module: str) -> str:
    """Return the first part of a module's name below the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def modules() -> list[Path]:
    return sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


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
    own = room_of(path)
    for name in imported(trees()[path]):
        if room(name) not in ("__init__", own):
            assert layer(room(name)) < layer(own), f"{relative} imports {name}: not further up"


def importers_of(module: Path) -> set[Path]:
    """Return the files of the package that import a module, or a name from it."""
    name = ".".join(("ma_agiqa", *module.relative_to(SOURCE).with_suffix("").parts))
    package, _, last = name.rpartition(".")

    def does(node: ast.AST) -> bool:
        if isinstance(node, ast.Import):
            return any(alias.name == name for alias in node.names)
        if not isinstance(node, ast.ImportFrom):
            return False
        from_package = node.module == package and any(alias.name == last for alias in node.names)
        return node.module == name or from_package

    return {path for path, tree in trees().items() if any(map(does, ast.walk(tree)))}


@cache
def trees() -> dict[Path, ast.Module]:
    return {p: ast.parse(p.read_text(encoding="utf-8")) for p in SOURCE.rglob("*.py")}


@pytest.mark.parametrize(
    "path",
    [p for p in modules() if room_of(p) in ROOMS and p.stem not in ("__init__", "__main__")],
    ids=lambda p: str(p.relative_to(SOURCE)),
)
def test_no_file_is_a_cell(path: Path) -> None:
    lines, importers = len(path.read_text(encoding="utf-8").splitlines()), importers_of(path)
    assert importers, "nothing imports it"
    assert lines >= SMALL or len(importers) > 1, f"{lines} lines for {importers.pop()} alone"


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
