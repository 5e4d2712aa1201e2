"""Wording that error messages share: long lists made short, guesses at misspelt names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

SHOWN = 5
"""How many offenders an error names before it only counts them."""


def join_some(items: Sequence[str]) -> str:
    """Return the first few items as text, and how many more there are; "none" of none."""
    if not items:
        return "none"
    rest = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def did_you_mean(name: str, known: Iterable[str], lead: str) -> str:
    """Return `; LEAD a, b, c; did you mean b?` for an error about an unknown name."""
    choices = list(known)
    folded = {choice.casefold(): choice for choice in choices}
    close = [folded[key] for key in get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)]
    guess = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"; {lead} {', '.join(choices)}{guess}"
