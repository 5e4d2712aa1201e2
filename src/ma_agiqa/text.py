"""Wording that messages share: long lists made short, guesses at misspelt names, safe names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from unicodedata import category

SHOWN = 5
"""How many offenders an error names before it only counts them."""

_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the direction of writing: a name can hide its suffix with them."""


def join_some(items: Sequence[str]) -> str:
    """Return the first few items as text, and how many more there are; "none" of none.

    >>> join_some(["a.png", "b.png"])
    'a.png, b.png'
    >>> join_some("abcdefgh")
    'a, b, c, d, e and 3 more'
    """
    if not items:
        return "none"
    rest = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def for_terminal(text: str) -> str:
    """Return text in which no file name can steer a terminal: control characters as `\\x1b`.

    >>> for_terminal("a" + chr(27) + "[31m.png")
    'a\\\\x1b[31m.png'
    """
    return "".join(
        repr(c)[1:-1] if (category(c) == "Cc" and c not in "\n\t") or c in _TURNS else c
        for c in text
    )


def printable(text: str) -> str:
    """Return text that any UTF-8 output takes: bytes of a name that are none as `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def did_you_mean(name: str, known: Iterable[str], lead: str) -> str:
    """Return `; LEAD a, b, c; did you mean b?` for an error about an unknown name.

    >>> did_you_mean("compakt", ["compact", "paper"], "known are")
    '; known are compact, paper; did you mean compact?'
    """
    choices = list(known)
    folded = {choice.casefold(): choice for choice in choices}
    close = [folded[key] for key in get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)]
    guess = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"; {lead} {', '.join(choices)}{guess}"
