"""The command line: what goes to stdout and into files, and the exit status."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from ma_agiqa.types import TABLE_KEYS
from support.command_line import MAIN, rows_of, run, score


def test_top_gives_the_best_first_and_names_failures_on_stderr(
    pictures: Path, tiny_compact: Path
) -> None:
    everything = rows_of(score(pictures, model=tiny_compact).stdout)
    result = score(pictures, "gone.png", "--top", 2, model=tiny_compact)
    best = sorted(everything, key=lambda row: -float(str(row["score"])))[:2]
    assert [row["path"] for row in rows_of(result.stdout)] == [row["path"] for row in best]
    assert "failed: gone.png: no such file" in result.stderr
    assert result.exit_code == 1


def test_fail_under_gives_3_only_when_a_score_is_below(pictures: Path, tiny_compact: Path) -> None:
    assert score(pictures, "--fail-under", 0, model=tiny_compact).exit_code == 0
    missed = score(pictures, "--fail-under", 5, model=tiny_compact)
    assert missed.exit_code == 3
    assert "5 below 5" in missed.stderr
    assert len(rows_of(missed.stdout)) == 5


def test_failed_inputs_count_before_a_missed_threshold(pictures: Path, tiny_compact: Path) -> None:
    assert score(pictures, "gone.png", "--fail-under", 5, model=tiny_compact).exit_code == 1


def test_the_table_shows_every_image_and_its_error(
    pictures: Path, tiny_compact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # so that no cell is folded
    shown = score(pictures / "a.png", "gone.png", "--format", "table", model=tiny_compact).stdout
    lines = shown.splitlines()
    (good,) = [line for line in lines if str(pictures / "a.png") in line]
    (bad,) = [number for number, line in enumerate(lines) if "gone.png" in line]
    assert "%" in good
    assert "no score" in lines[bad]
    assert "no such file" in lines[bad + 1]


def test_json_lines_stay_json_where_stdout_is_not_unicode(
    pictures: Path, tiny_compact: Path
) -> None:
    accented = (pictures / "a.png").rename(pictures / "été.png")
    done = subprocess.run(
        [*MAIN, "score", accented, "--model", tiny_compact, "--device", "cpu"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert rows_of(done.stdout.decode("ascii"))[0]["path"] == str(accented)


def test_csv_on_stdout_has_columns_for_all_but_the_interval(
    pictures: Path, tiny_compact: Path
) -> None:
    shown = score(pictures, "--format", "csv", model=tiny_compact).stdout
    rows = list(csv.DictReader(shown.splitlines()))
    assert tuple(rows[0]) == TABLE_KEYS
    assert len(rows) == 5


def test_quiet_says_nothing_on_stderr(pictures: Path, tiny_compact: Path) -> None:
    assert score(pictures, "--quiet", model=tiny_compact).stderr == ""


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_output_file_holds_the_rows_of_stdout(
    pictures: Path, tiny_compact: Path, tmp_path: Path, suffix: str
) -> None:
    expected = rows_of(score(pictures, "gone.png", model=tiny_compact).stdout)
    out = tmp_path / f"scores{suffix}"
    result = score(pictures, "gone.png", "--output", out, model=tiny_compact)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures", out.name]
    if suffix == ".jsonl":
        assert rows_of(out.read_text()) == expected
        return
    expected = [{key: row[key] for key in TABLE_KEYS} for row in expected]
    if suffix == ".parquet":
        got = pyarrow.parquet.read_table(out).to_pylist()
    else:
        with out.open(newline="") as file:
            got = [{k: v or None for k, v in row.items()} for row in csv.DictReader(file)]
        expected = [{k: None if v is None else str(v) for k, v in row.items()} for row in expected]
    assert got == expected


def test_result_files_of_before_are_read_and_keep_a_column_named_like_the_interval(
    tmp_path: Path,
) -> None:
    row = {"path": "a.png", "score": 1.5, "percentile": 20.0, "low": 0.0, "high": 5.0}
    row |= {"model": "tiny", "error": None, "hint": None}
    old, out = tmp_path / "old.jsonl", tmp_path / "new.csv"
    old.write_text(json.dumps(row) + "\n")
    assert rows_of(run("score", old, "--top", 1, "--format", "jsonl").stdout) == [row]
    # A version without intervals kept a table's own column under its name.
    old.write_text("".join(json.dumps(row | {"interval": own}) + "\n" for own in ("short", None)))
    assert run("score", old, "--top", 2, "--output", out).exit_code == 0
    with out.open(newline="") as file:
        assert [one["table_interval"] for one in csv.DictReader(file)] == ["short", ""]
    assert rows_of(run("score", out, "--top", 2, "--format", "jsonl").stdout) == [
        row | {"table_interval": own} for own in ("short", None)
    ]


def test_top_applies_to_the_output_file(pictures: Path, tiny_compact: Path, tmp_path: Path) -> None:
    out = tmp_path / "best.jsonl"
    expected = score(pictures, "--top", 2, model=tiny_compact).stdout
    assert score(pictures, "--top", 2, "--output", out, model=tiny_compact).exit_code == 0
    assert out.read_text() == expected


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS refuses names that are not UTF-8")
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_file_name_that_is_not_utf8_survives(
    pictures: Path, tiny_compact: Path, tmp_path: Path, suffix: str
) -> None:
    odd = Path(os.fsdecode(os.fsencode(pictures) + b"/\xff.png"))
    (pictures / "a.png").rename(odd)
    out = tmp_path / f"scores{suffix}"
    assert score(odd, "--output", out, model=tiny_compact).exit_code == 0
    if suffix == ".jsonl":
        assert rows_of(out.read_text())[0]["path"] == str(odd)
    else:
        assert b"ff.png" in out.read_bytes()
