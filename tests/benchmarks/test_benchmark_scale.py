"""benchmarks/scale.py: every way gives all scores, and they are the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.scripts import load_script


def test_two_ways_in_one_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in ("moto", "s3fs"):
        pytest.importorskip(package, reason="the benchmark's S3 store")
    script = load_script("scale")
    words = ["scale.py", "--images", "4", "--few", "2", "--rows", "1000"]
    words += ["--only", "score,s3", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    (written,) = tmp_path.glob("scale_compact_*.json")
    record = json.loads(written.read_text())
    assert record["same_scores"] is True
    assert set(record["ways"]) == {"score", "s3"}
    for way in record["ways"].values():
        assert way["seconds"] > 0
        assert way["memory_mib"] > 100
    assert record["overhead_beyond_start"]["score"] == 0
    assert record["bookkeeping"]["rows"] == 1000
    assert record["bookkeeping"]["units"] == 20
