"""A service in a process of its own, on a free port."""

from __future__ import annotations

import re
import subprocess

from support.command_line import MAIN


def start(*words: object) -> tuple[subprocess.Popen[str], str]:
    """Return a service and its address; `words` are options of `serve`."""
    words = ("serve", "--port", "0", "--device", "cpu", *words)
    child = subprocess.Popen([*MAIN, *map(str, words)], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    for line in child.stderr:
        if found := re.search(r"http://\S+", line):
            return child, found[0]
    raise AssertionError(f"it ended with status {child.wait()}")
