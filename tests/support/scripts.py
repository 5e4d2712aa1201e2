"""Scripts beside the package as modules; some share their name with a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]


def load_script(name: str, folder: str = "benchmarks") -> ModuleType:
    place = REPOSITORY / folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
