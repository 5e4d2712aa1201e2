"""Keeping freed memory changes neither a number nor the user's own settings."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import sys
from ma_agiqa.allocator import HUGE_PAGES, keep_freed_memory
import os
kept = keep_freed_memory()
assert "torch" not in sys.modules, "it must come before torch"
print(kept, os.environ[HUGE_PAGES])
"""


def told(**environment: str) -> list[str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "THP_"))}
    return subprocess.run(
        [sys.executable, "-c", CODE],
        env=plain | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_kept_before_torch_is_loaded() -> None:
    assert told() in (["True", "1"], ["False", "1"])  # False where the C library is not glibc


def test_settings_of_the_user_stay() -> None:
    assert told(THP_MEM_ALLOC_ENABLE="0", MALLOC_ARENA_MAX="2") == ["False", "0"]
