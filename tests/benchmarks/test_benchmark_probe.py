"""The probe's benchmark measures a whole fit and keeps what it measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from support.scripts import load_script


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("probe")


@pytest.mark.parametrize(("features", "form"), [(96, "primal"), (700, "dual")])
def test_the_report_says_what_was_done_and_how_near_the_limit(
    benchmark: ModuleType,
    tmp_path: Path,
    features: int,
    form: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["--images", "600", "--features", str(features), "--out", str(tmp_path / "report.json")]
    benchmark.run(benchmark.arguments(argv), argv)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == json.loads(capsys.readouterr().out)
    assert report["form"] == form
    assert report["strengths_solved"] == report["strengths_asked"] == 17
    side, steps = min(features, 420), report["lanczos_steps"]
    gram = 420 * features * side
    assert report["flops"] == gram + 2 * side**2 * steps + 4 * steps**2 * side
    assert 0 < report["share_of_machine_rate"] < 1
    assert report["test_correlation"] > 0.5  # the scores are in the features, with noise
    assert report["command"].startswith("python benchmarks/probe.py --images 600")
