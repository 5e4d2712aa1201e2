"""The extraction benchmark measures both schedules and keeps what it measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.scripts import load_script


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("extract")


def run(benchmark: ModuleType, out: Path) -> dict[str, Any]:
    argv = ["--config", "tiny", "--batch-sizes", "1", "--official-batch", "2", "--repeats", "1"]
    benchmark.run(benchmark.arguments([*argv, "--out", str(out)]), argv)
    return json.loads(out.read_text())


def test_the_report_has_both_schedules_and_their_agreement(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    report = run(benchmark, tmp_path / "new" / "report.json")
    measured = [(row["schedule"], row["batch"]) for row in report["rows"]]
    assert measured == [("official", 2), ("cached", 2), ("cached", 1)]
    assert all(row["images_per_second"] > 0 for row in report["rows"])
    assert report["positions"] == [100, 95]
    assert report["command"].startswith("python benchmarks/extract.py --config tiny")
    # Float32 sums in another order.
    assert report["agreement"]["max_difference_in_std"] < 5e-6


def test_a_failing_part_becomes_a_row_and_the_rest_is_kept(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = benchmark.cached

    def fails_at_one(model: Any, pixels: Any, prompts: Any) -> Any:
        if len(pixels) == 1 and pixels.device.type != "meta":
            raise RuntimeError("CUDA out of memory. Tried to allocate\nmore")
        return right(model, pixels, prompts)

    monkeypatch.setitem(benchmark.SCHEDULES, "cached", fails_at_one)
    report = run(benchmark, tmp_path / "report.json")
    assert [row.get("error") for row in report["rows"]] == [
        None,
        None,
        "CUDA out of memory. Tried to allocate",
    ]
    assert report["speedup"]["cpu"] > 1


def test_full_size_operations_are_a_third(benchmark: ModuleType) -> None:
    """Counted on the meta device; by hand about 8.2 and 2.6 TFLOP per image."""
    counts = benchmark.operations(benchmark.CONFIGS["7b"], benchmark.PROMPTS["7b"])
    assert counts["official"] == pytest.approx(8.2e12, rel=0.01)
    assert counts["cached"] == pytest.approx(2.6e12, rel=0.01)
