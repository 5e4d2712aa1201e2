"""How the C library keeps the memory of freed tensors, on the command line only.

A network on a CPU frees and takes tensors of tens of megabytes. By default glibc hands such
memory back to the system, which pages it in anew, zeroed, four kilobytes at a time. Kept, and in
huge pages, the compact network's training step takes about a tenth less time, and scoring no less,
but more memory. No number that is computed changes.

What this file does not do: anything outside Linux with glibc, or on import.
"""

from __future__ import annotations

import ctypes
import os

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # read by torch when it first takes memory

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; glibc refuses more
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed memory in the process; say whether the C library took the request.

    Call it before torch is first used. The user's own settings in the environment stay.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    kept = mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    return bool(kept and mallopt(_TRIM_THRESHOLD, _NEVER))
