"""The training benchmark measures steps and epochs and counts their work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "train.py"


def test_the_report_of_the_tiny_network_adds_up(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")
    words = ["--model", "tiny", "--precision", "float32", "--device", "cpu", "--threads", "1"]
    words += ["--repeats", "1", "--steps", "2", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("train_*.json")
    assert done.stdout.strip() == str(path)
    report = json.loads(path.read_text())
    assert report["threads"] == 1
    tiny = report["networks"]["tiny, float32"]
    assert (tiny["batch"], tiny["steps_per_epoch"]) == (8, 2)
    step, epoch = min(tiny["seconds"]["step"]), min(tiny["seconds"]["epoch"])
    assert tiny["images_per_s"]["step"] == pytest.approx(8 / step)
    assert tiny["images_per_s"]["epoch"] == pytest.approx(16 / epoch)
    reached = tiny["multiply_adds_per_step"] / step / tiny["peak_multiply_adds_per_s"]
    assert tiny["share_of_peak"] == pytest.approx(reached, abs=1e-4)  # as it is rounded
    assert 0 < reached < 1, "more than the machine can do was counted"
