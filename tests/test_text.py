"""Lists in messages stay short, and a misspelt name gets a guess."""

from __future__ import annotations

import pytest

from ma_agiqa.text import did_you_mean, join_some


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "none"), (1, "0"), (5, "0, 1, 2, 3, 4"), (6, "0, 1, 2, 3, 4 and 1 more")],
)
def test_the_first_few_are_named_and_the_rest_counted(count: int, text: str) -> None:
    assert join_some([str(number) for number in range(count)]) == text


def test_a_guess_ignores_case_and_is_left_out_when_nothing_is_close() -> None:
    assert did_you_mean("SPAK", ["spaq", "koniq-10k"], "known are") == (
        "; known are spaq, koniq-10k; did you mean spaq?"
    )
    assert did_you_mean("x", ["spaq"], "known are") == "; known are spaq"
