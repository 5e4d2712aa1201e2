"""A bounded share of `fuzz.py`: the same damaged files each time, and only our own errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import TARGETS, run

CASES = 56  # for a share of 1; over 2,000 in all


@pytest.mark.parametrize("name", TARGETS)
def test_only_errors_of_this_package_come_out(name: str, tmp_path: Path) -> None:
    for package in TARGETS[name].needs:
        pytest.importorskip(package, reason="needs the extra 'onnx'")
    found = run(name, range(CASES * TARGETS[name].share), tmp_path)
    assert not found, "\n".join(found[:3])


def test_enough_is_tried() -> None:
    assert CASES * sum(target.share for target in TARGETS.values()) >= 2000
