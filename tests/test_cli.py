"""The command line: what goes to stdout, what survives, and the exit status.

The model is a tiny `compact` network with random weights in a directory of the test's own.
Tests that stop a run from outside start a process; the others call the app in this one.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from ma_agiqa import checkpoints
from ma_agiqa.cli import app, journal, tables
from ma_agiqa.config import ModelConfig, Preprocess, TrainedOn
from ma_agiqa.errors import OutputError
from ma_agiqa.types import ROW_KEYS, Scale
from ma_agiqa.version import __version__

MAIN = [sys.executable, "-c", "from ma_agiqa.cli import main; main()"]


def save_model(directory: Path, *, seed: int) -> Path:
    config = ModelConfig(
        name="tiny",
        architecture="compact",
        network={"widths": [4, 4, 8, 8], "depths": [1, 1, 1]},
        preprocess=Preprocess("native", min_side=16, max_pixels=512 * 512),
        scale=Scale(0.0, 5.0),
        trained_on=TrainedOn("made-up", "quality", "paper", 2, (0.0, 2.5, 5.0)),
    )
    torch.manual_seed(seed)
    checkpoints.save(directory, checkpoints.build(config), config, card="for a test")
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with five pictures, one of them further down."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name in ["a.png", "b.jpg", "below/c.png", "d.bmp", "e.PNG"]:
        pixels = np.random.default_rng(len(name)).integers(0, 256, (32, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels // (ord(name[0]) - ord("a") + 1)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_text("not looked at")
    return folder


def run(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def score(*words: object, model: Path, stdin: str | None = None) -> Result:
    return run("score", "--model", model, "--device", "cpu", *words, stdin=stdin)


def rows_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


# What goes in


def test_a_folder_gives_its_images_in_sorted_order_as_json_lines(
    pictures: Path, model: Path
) -> None:
    result = score(pictures, model=model)
    assert result.exit_code == 0, result.output
    rows = rows_of(result.stdout)
    names = ["a.png", "b.jpg", "below/c.png", "d.bmp", "e.PNG"]
    assert [row["path"] for row in rows] == [str(pictures / name) for name in names]
    for row in rows:
        assert tuple(row) == ROW_KEYS == (
            "path", "score", "percentile", "low", "high", "model", "error",
        )  # fmt: skip
        assert 0 <= float(str(row["score"])) <= 5
        assert row["percentile"] == pytest.approx(20 * float(str(row["score"])), abs=1e-6)
        assert (row["low"], row["high"], row["model"], row["error"]) == (0, 5, "tiny", None)
    assert "5 scored, 0 failed" in result.stderr


def test_globs_are_expanded_and_sorted(pictures: Path, model: Path) -> None:
    rows = rows_of(score(f"{pictures}/**/*.png", model=model).stdout)
    assert [row["path"] for row in rows] == [f"{pictures}/a.png", f"{pictures}/below/c.png"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(pictures: Path, model: Path) -> None:
    odd = (pictures / "a.png").rename(pictures / "a[1].png")
    assert [row["path"] for row in rows_of(score(odd, model=model).stdout)] == [str(odd)]


def test_a_list_on_stdin_is_read_line_by_line(pictures: Path, model: Path) -> None:
    listed = f"{pictures}/a.png\r\n\n{pictures}/b.jpg\n"
    rows = rows_of(score("-", model=model, stdin=listed).stdout)
    assert [row["path"] for row in rows] == [f"{pictures}/a.png", f"{pictures}/b.jpg"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("with_root", [False, True])
def test_a_table_column_gives_paths_relative_to_its_folder_or_the_root(
    pictures: Path, model: Path, tmp_path: Path, suffix: str, with_root: bool
) -> None:
    names = ["below/c.png", None, "a.png"]
    table = (tmp_path if with_root else pictures) / f"list{suffix}"
    if suffix == ".csv":
        table.write_bytes(
            "\ufeffimage,prompt\r\n".encode() + b'below/c.png,"x, y"\r\n,\r\na.png,z\r\n'
        )
    else:
        pyarrow.parquet.write_table(pyarrow.table({"image": names}), table)
    root = ["--root", pictures] if with_root else []
    result = score(table, "--column", "image", *root, model=model)
    rows = rows_of(result.stdout)
    assert result.exit_code == 1  # the row without a path
    assert [row["path"] for row in rows][::2] == [f"{pictures}/below/c.png", f"{pictures}/a.png"]
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert "row 2 has no path" in str(rows[1]["error"])


def test_an_image_named_twice_is_scored_twice(pictures: Path, model: Path) -> None:
    rows = rows_of(score(pictures / "a.png", pictures / "a.png", model=model).stdout)
    assert len(rows) == 2
    assert rows[0] == rows[1]


# What is wrong with it


def test_bad_images_become_rows_and_the_status_is_1(
    pictures: Path, model: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    result = score(tmp_path / "missing.png", empty, pictures / "a.png", model=model)
    rows = rows_of(result.stdout)
    assert result.exit_code == 1
    assert [row["score"] is None for row in rows] == [True, True, False]
    assert "no such file" in str(rows[0]["error"])
    assert "empty" in str(rows[1]["error"])
    assert "1 scored, 2 failed" in result.stderr


def test_an_empty_folder_beside_images_is_a_row(
    pictures: Path, model: Path, tmp_path: Path
) -> None:
    barren = tmp_path / "barren"
    barren.mkdir()
    result = score(barren, pictures, model=model)
    assert result.exit_code == 1
    assert rows_of(result.stdout)[-1]["error"] == "no images found here"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["EMPTY"], "no images found in"),
        (["EMPTY/*.png"], "no images found in"),
        (["-", "-"], "only once"),
        (["table.csv"], "--column"),
        (["PICTURES", "--column", "image"], "CSV and Parquet"),
        (["PICTURES", "--root", "."], "--column"),
        (["PICTURES", "--output", "scores.xlsx"], ".parquet"),
        (["PICTURES", "--output", "nowhere/scores.csv"], "folder does not exist"),
        (["PICTURES", "--fail-under", "nan"], "finite"),
        (["PICTURES", "--device", "toaster"], "toaster"),
    ],
)
def test_wrong_use_is_one_line_on_stderr_and_status_2(
    pictures: Path, model: Path, tmp_path: Path, words: list[str], reason: str
) -> None:
    (tmp_path / "empty").mkdir()
    words = [
        w.replace("PICTURES", str(pictures)).replace("EMPTY", f"{tmp_path}/empty") for w in words
    ]
    result = score(*words, model=model)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert reason in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["score", "x.png", "--bogus"],
        ["score"],
        ["score", "x.png", "--top", "0"],
        ["score", "x.png", "--workers", "0"],
        ["score", "x.png", "--format", "xml"],
        ["juggle"],
    ],
)
def test_unknown_options_commands_and_values_fail_with_2(words: list[str]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_without_the_column_lists_those_it_has(
    model: Path, tmp_path: Path, suffix: str
) -> None:
    table = tmp_path / f"list{suffix}"
    if suffix == ".csv":
        table.write_text("picture,mos\na.png,1\n")
    else:
        pyarrow.parquet.write_table(pyarrow.table({"picture": ["a.png"], "mos": [1]}), table)
    result = score(table, "--column", "image", model=model)
    assert result.exit_code == 2
    assert "no column 'image'" in result.stderr
    assert "picture, mos" in result.stderr


@pytest.mark.parametrize("content", [b"", b"PAR1 but no more", b"\xff\xfe\x00image\n\x00"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_damaged_table_is_an_error_that_names_it(
    model: Path, tmp_path: Path, suffix: str, content: bytes
) -> None:
    table = tmp_path / f"list{suffix}"
    table.write_bytes(content)
    result = score(table, "--column", "image", model=model)
    assert result.exit_code == 2
    assert str(table) in result.stderr


def test_a_damaged_table_loses_no_row_before_the_damage(
    pictures: Path, model: Path, tmp_path: Path
) -> None:
    table = tmp_path / "list.csv"
    good = f"image\n{pictures}/a.png\n{pictures}/b.jpg\n".encode()
    # Beyond one read of the decoder, so that the first rows are out before it is met.
    table.write_bytes(good + f"{pictures}/a.png\n".encode() * 2000 + b"\xff\n")
    out = tmp_path / "scores.jsonl"
    result = score(table, "--column", "image", "--output", out, model=model)
    assert result.exit_code == 2
    assert not out.exists()
    kept = (tmp_path / "scores.jsonl.partial").read_text().splitlines()
    assert len(kept) > 3


def test_a_foreign_model_directory_is_an_error(pictures: Path) -> None:
    result = run("score", pictures, "--model", pictures)
    assert result.exit_code == 2
    assert "not a model directory" in result.stderr


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MA_AGIQA_DEBUG", "1")
    assert "no images found" in str(run("score", tmp_path).exception)


# What comes out


def test_top_gives_the_best_first_and_names_failures_on_stderr(pictures: Path, model: Path) -> None:
    everything = rows_of(score(pictures, model=model).stdout)
    result = score(pictures, "gone.png", "--top", 2, model=model)
    best = sorted(everything, key=lambda row: -float(str(row["score"])))[:2]
    assert [row["path"] for row in rows_of(result.stdout)] == [row["path"] for row in best]
    assert "failed: gone.png: no such file" in result.stderr
    assert result.exit_code == 1


def test_fail_under_gives_3_only_when_a_score_is_below(pictures: Path, model: Path) -> None:
    assert score(pictures, "--fail-under", 0, model=model).exit_code == 0
    missed = score(pictures, "--fail-under", 5, model=model)
    assert missed.exit_code == 3
    assert "5 below 5" in missed.stderr
    assert len(rows_of(missed.stdout)) == 5


def test_failed_inputs_count_before_a_missed_threshold(pictures: Path, model: Path) -> None:
    assert score(pictures, "gone.png", "--fail-under", 5, model=model).exit_code == 1


def test_the_table_shows_every_image_and_its_error(
    pictures: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # so that no cell is folded
    shown = score(pictures / "a.png", "gone.png", "--format", "table", model=model).stdout
    lines = shown.splitlines()
    (good,) = [line for line in lines if str(pictures / "a.png") in line]
    (bad,) = [number for number, line in enumerate(lines) if "gone.png" in line]
    assert "%" in good
    assert "no score" in lines[bad]
    assert "no such file" in lines[bad + 1]


def test_json_lines_stay_json_where_stdout_is_not_unicode(pictures: Path, model: Path) -> None:
    accented = (pictures / "a.png").rename(pictures / "été.png")
    done = subprocess.run(
        [*MAIN, "score", accented, "--model", model, "--device", "cpu"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert rows_of(done.stdout.decode("ascii"))[0]["path"] == str(accented)


def test_csv_on_stdout_has_the_same_columns(pictures: Path, model: Path) -> None:
    shown = score(pictures, "--format", "csv", model=model).stdout
    rows = list(csv.DictReader(shown.splitlines()))
    assert tuple(rows[0]) == ROW_KEYS
    assert len(rows) == 5


def test_quiet_says_nothing_on_stderr(pictures: Path, model: Path) -> None:
    assert score(pictures, "--quiet", model=model).stderr == ""


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_output_file_holds_the_rows_of_stdout(
    pictures: Path, model: Path, tmp_path: Path, suffix: str
) -> None:
    expected = rows_of(score(pictures, "gone.png", model=model).stdout)
    out = tmp_path / f"scores{suffix}"
    result = score(pictures, "gone.png", "--output", out, model=model)
    assert result.exit_code == 1
    assert result.stdout == ""
    if suffix == ".jsonl":
        got = rows_of(out.read_text())
    elif suffix == ".parquet":
        got = pyarrow.parquet.read_table(out).to_pylist()
    else:
        with out.open(newline="") as file:
            got = [{k: v or None for k, v in row.items()} for row in csv.DictReader(file)]
        expected = [{k: None if v is None else str(v) for k, v in row.items()} for row in expected]
    assert got == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures", out.name]


def test_top_applies_to_the_output_file(pictures: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "best.jsonl"
    expected = score(pictures, "--top", 2, model=model).stdout
    assert score(pictures, "--top", 2, "--output", out, model=model).exit_code == 0
    assert out.read_text() == expected


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS refuses names that are not UTF-8")
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_file_name_that_is_not_utf8_survives(
    pictures: Path, model: Path, tmp_path: Path, suffix: str
) -> None:
    odd = Path(os.fsdecode(os.fsencode(pictures) + b"/\xff.png"))
    (pictures / "a.png").rename(odd)
    out = tmp_path / f"scores{suffix}"
    assert score(odd, "--output", out, model=model).exit_code == 0
    if suffix == ".jsonl":
        assert rows_of(out.read_text())[0]["path"] == str(odd)
    else:
        assert b"ff.png" in out.read_bytes()


# What survives


def interrupted(pictures: Path, model: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start a run that waits for more paths after two images, and return it in that state."""
    process = subprocess.Popen(
        [
            *MAIN,
            "score",
            "-",
            "--model",
            model,
            "--output",
            out,
            "--device",
            "cpu",
            "--batch-size",
            "1",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    # Three batches are read ahead of a result, so two results need five paths.
    for name in ["a.png", "b.jpg", "below/c.png", "d.bmp", "e.PNG"]:
        process.stdin.write(f"{pictures}/{name}\n".encode())
    process.stdin.flush()
    partial = out.with_name(out.name + ".partial")
    deadline = time.monotonic() + 60
    while not partial.exists() or partial.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < deadline, "no rows were kept within a minute"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def test_ctrl_c_keeps_results_and_the_next_run_reuses_them(
    pictures: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.jsonl"
    process = interrupted(pictures, model, out)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"interrupted" in complaint
    assert b"rows are kept in" in complaint
    assert b"Traceback" not in complaint
    assert not out.exists()
    again = score(pictures, "--output", out, model=model)
    assert again.exit_code == 0
    assert "of them reused" in again.stderr
    expected = rows_of(score(pictures, model=model).stdout)
    got = rows_of(out.read_text())
    assert [row["path"] for row in got] == [row["path"] for row in expected]
    for one, other in zip(got, expected, strict=True):
        # Scored in other batches; float32 sums of another order.
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    assert not (tmp_path / "scores.jsonl.partial").exists()


def test_a_killed_run_is_resumed_too(pictures: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    process = interrupted(pictures, model, out)
    process.kill()
    process.communicate(timeout=30)
    partial = tmp_path / "scores.csv.partial"
    partial.write_bytes(partial.read_bytes() + b'{"sha256": "cut sho')
    again = score(pictures, "--output", out, model=model)
    assert again.exit_code == 0
    assert "of them reused" in again.stderr
    assert out.read_text().count("\n") == 6


@pytest.fixture
def kept(pictures: Path, model: Path, tmp_path: Path) -> Path:
    """The result file of a run whose writing failed at the end, so that its journal stayed."""
    out = tmp_path / "scores.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "write", full_disk)
        result = score(pictures, "--output", out, model=model)
    assert result.exit_code == 2
    return out


def full_disk(path: Path, rows: object) -> None:
    raise OutputError("cannot be written: No space left on device", path=path)


def test_a_run_resumed_with_all_rows_kept_reuses_all(
    pictures: Path, model: Path, kept: Path
) -> None:
    result = score(pictures, "--output", kept, model=model)
    assert "5 of them reused" in result.stderr
    assert len(rows_of(kept.read_text())) == 5


def test_a_changed_file_is_scored_again(pictures: Path, model: Path, kept: Path) -> None:
    Image.new("RGB", (40, 40), "white").save(pictures / "b.jpg")
    result = score(pictures, "--output", kept, model=model)
    assert "4 of them reused" in result.stderr
    fresh = rows_of(score(pictures / "b.jpg", model=model).stdout)[0]
    assert rows_of(kept.read_text())[1]["score"] == pytest.approx(fresh["score"], abs=1e-4)


def test_a_file_gone_since_is_not_reused(pictures: Path, model: Path, kept: Path) -> None:
    listed = f"{pictures}/a.png\n{pictures}/b.jpg\n"
    (pictures / "a.png").unlink()
    result = score("-", "--output", kept, model=model, stdin=listed)
    assert result.exit_code == 1
    assert [row["error"] is None for row in rows_of(kept.read_text())] == [False, True]


def test_rows_of_another_model_are_not_reused(pictures: Path, kept: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", seed=1)
    result = score(pictures, "--output", kept, model=other)
    assert result.exit_code == 0
    assert "reused" not in result.stderr
    assert kept.read_text() == score(pictures, model=other).stdout


def test_a_foreign_file_in_the_journals_place_is_left_alone(
    pictures: Path, model: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "scores.csv.partial"
    foreign.write_text("my notes")
    result = score(pictures, "--output", tmp_path / "scores.csv", model=model)
    assert result.exit_code == 2
    assert "not a journal" in result.stderr
    assert foreign.read_text() == "my notes"


def test_a_disk_that_fills_at_the_end_keeps_and_prints_all_rows(
    pictures: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores.csv"
    out.write_text("of an earlier run")
    monkeypatch.setattr(tables, "write", full_disk)
    result = score(pictures, "--output", out, model=model)
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert "5 rows are kept in" in result.stderr
    assert len(rows_of(result.stdout)) == 5
    assert out.read_text() == "of an earlier run"


def test_a_disk_that_fills_midway_loses_no_row(
    pictures: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = journal.Journal._append
    calls = iter(range(100))

    def full(self: journal.Journal, line: bytes) -> int:
        if next(calls) == 3:  # the header, two rows, then no more
            raise OSError(errno.ENOSPC, "No space left on device")
        return append(self, line)

    monkeypatch.setattr(journal.Journal, "_append", full)
    out = tmp_path / "scores.jsonl"
    result = score(pictures, "--output", out, model=model)
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert len(rows_of(result.stdout)) == 3  # two that were kept, one that could not be
    assert not out.exists()
    monkeypatch.undo()
    assert "2 of them reused" in score(pictures, "--output", out, model=model).stderr


def test_a_line_that_fits_only_in_part_is_taken_back(tmp_path: Path) -> None:
    """A limit on the file's size stands in for a full disk: the system writes what fits."""
    script = f"""
import resource
from pathlib import Path
from ma_agiqa.cli.journal import Journal
from ma_agiqa.errors import OutputError
kept = Journal(Path({str(tmp_path / "scores.csv")!r}), model="m")
resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
try:
    for number in range(100):
        kept.append("0" * 64, {{"path": str(number), "error": None}})
except OutputError as error:
    print(number, len(list(kept.rows())), error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    written, kept, reason = done.stdout.split(maxsplit=2)
    assert int(written) == int(kept) > 0
    assert "results cannot be kept here" in reason
    assert (tmp_path / "scores.csv.partial").read_bytes().endswith(b"\n")


def test_a_place_that_cannot_be_written_is_said_before_scoring(
    pictures: Path, model: Path, tmp_path: Path
) -> None:
    """Root may write anywhere, so a folder in the journal's place stands in for permission."""
    (tmp_path / "scores.csv.partial").mkdir()
    result = score(pictures, "--output", tmp_path / "scores.csv", model=model)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "results cannot be kept here" in result.stderr


def test_the_output_may_not_be_a_folder(pictures: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    result = score(pictures, "--output", tmp_path / "folder.csv", model=model)
    assert result.exit_code == 2
    assert "is a folder" in result.stderr


def test_a_run_that_keeps_nothing_leaves_no_journal(
    pictures: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, sha256: object, row: object) -> None:
        raise OutputError("full")

    monkeypatch.setattr(journal.Journal, "append", full)
    assert score(pictures, "--output", tmp_path / "s.csv", model=model).exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


# The process around it


def test_a_reader_that_goes_away_ends_the_run_quietly(pictures: Path, model: Path) -> None:
    process = subprocess.Popen(
        [*MAIN, "score", *[pictures] * 50, "--model", model, "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    complaint = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert b"Traceback" not in complaint
    assert b"Exception ignored" not in complaint


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_stdout_is_one_line_on_stderr(pictures: Path, model: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*MAIN, "score", pictures, "--model", model, "--device", "cpu"],
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 2
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


def on_terminal(*words: object, stdout: int | None = None) -> tuple[str, str]:
    """Run with stderr on a terminal, and stdout too unless told; return what each showed."""
    own, theirs = pty.openpty()
    process = subprocess.Popen(
        [*MAIN, *map(str, words)], stdout=stdout or theirs, stderr=theirs, text=True
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux reports the end of a terminal so
        while block := os.read(own, 65536):
            shown += block
    printed, _ = process.communicate(timeout=60)
    os.close(own)
    return shown.decode(), printed or ""


def test_a_terminal_gets_a_table(pictures: Path, model: Path) -> None:
    shown, _ = on_terminal("score", pictures, "--model", model, "--device", "cpu")
    assert "score (0 to 5)" in shown
    assert '{"path"' not in shown


def test_json_lines_stay_on_stdout_when_only_stderr_is_a_terminal(
    pictures: Path, model: Path
) -> None:
    """A progress bar takes what is printed beside it to its own stream unless told not to."""
    shown, printed = on_terminal(
        "score", pictures, "--model", model, "--device", "cpu", stdout=subprocess.PIPE
    )
    assert len(rows_of(printed)) == 5
    assert "5 scored" in shown


def loaded_by(statement: str) -> Iterator[str]:
    script = f"import contextlib, sys\n{statement}\nprint('loaded', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return iter(done.stdout.split("loaded", 1)[1].split())


@pytest.mark.parametrize(
    "statement",
    [
        "import ma_agiqa",
        "import ma_agiqa.cli\nwith contextlib.suppress(SystemExit): ma_agiqa.cli.app(['--help'])",
        "import ma_agiqa.cli\nwith contextlib.suppress(SystemExit):"
        " ma_agiqa.cli.app(['score', '--help'])",
    ],
)
def test_import_and_help_load_nothing_heavy(statement: str) -> None:
    heavy = {"torch", "numpy", "scipy", "PIL", "pyarrow", "matplotlib", "timm", "cv2"}
    modules = set(loaded_by(statement))
    assert "ma_agiqa" in modules
    assert not heavy & modules


def test_help_takes_less_than_a_second() -> None:
    """Processor time, since the target is about work done, not about a busy machine."""
    before = os.times()
    done = subprocess.run([*MAIN, "--help"], capture_output=True, text=True)
    after = os.times()
    assert "score" in done.stdout
    used = after.children_user + after.children_system
    assert used - before.children_user - before.children_system < 1.0


def test_version_is_printed() -> None:
    assert run("--version").stdout == f"ma-agiqa {__version__}\n"


# The other lists


def test_models_lists_the_presets_with_licence() -> None:
    shown = run("models").stdout
    assert "compact" in shown
    assert "Apache-2.0" in shown


def test_datasets_lists_the_registry() -> None:
    assert "agiqa-3k" in run("datasets").stdout


def test_datasets_show_says_licence_and_where_to_download() -> None:
    shown = run("datasets", "show", "agiqa-3k").stdout
    assert "MIT" in shown
    assert "https://" in shown


def test_an_unknown_data_set_is_wrong_use() -> None:
    result = run("datasets", "show", "agiqa-4k")
    assert result.exit_code == 2
    assert "agiqa-3k" in result.stderr


def test_verify_of_an_empty_folder_says_what_is_missing(tmp_path: Path) -> None:
    result = run("datasets", "verify", "agiqa-3k", "--root", tmp_path)
    assert result.exit_code == 1
    assert str(tmp_path / "data.csv") in result.stdout
