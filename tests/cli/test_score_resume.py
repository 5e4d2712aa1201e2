"""The command line: what survives a stop, a kill and a full disk."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ma_agiqa.cli import journal, results
from ma_agiqa.errors import OutputError
from ma_agiqa.types import ROW_KEYS
from support.command_line import MAIN, rows_of, save_model, score


def interrupted(pictures: Path, tiny_compact: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start a run that waits for more paths after two images, and return it in that state."""
    process = subprocess.Popen(
        [
            *MAIN,
            "score",
            "-",
            "--model",
            tiny_compact,
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
        # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
    pictures: Path, tiny_compact: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.jsonl"
    process = interrupted(pictures, tiny_compact, out)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"interrupted" in complaint
    assert b"rows are kept in" in complaint
    assert b"Traceback" not in complaint
    assert not out.exists()
    again = score(pictures, "--output", out, model=tiny_compact)
    assert again.exit_code == 0
    assert "of them reused" in again.stderr
    expected = rows_of(score(pictures, model=tiny_compact).stdout)
    got = rows_of(out.read_text())
    assert [row["path"] for row in got] == [row["path"] for row in expected]
    for one, other in zip(got, expected, strict=True):
        # Scored in other batches; float32 sums of another order.
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    assert not (tmp_path / "scores.jsonl.partial").exists()


def test_a_killed_run_is_resumed_too(pictures: Path, tiny_compact: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    process = interrupted(pictures, tiny_compact, out)
    process.kill()
    process.communicate(timeout=30)
    partial = tmp_path / "scores.csv.partial"
    partial.write_bytes(partial.read_bytes() + b'{"sha256": "cut sho')
    again = score(pictures, "--output", out, model=tiny_compact)
    assert again.exit_code == 0
    assert "of them reused" in again.stderr
    assert out.read_text().count("\n") == 6


@pytest.fixture
def kept(pictures: Path, tiny_compact: Path, tmp_path: Path) -> Path:
    """The result file of a run whose writing failed at the end, so that its journal stayed."""
    out = tmp_path / "scores.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "write_table", full_disk)
        result = score(pictures, "--output", out, model=tiny_compact)
    assert result.exit_code == 2
    return out


def full_disk(path: Path, rows: object) -> None:
    raise OutputError("cannot be written: No space left on device", path=path)


def test_a_run_resumed_with_all_rows_kept_reuses_all(
    pictures: Path, tiny_compact: Path, kept: Path
) -> None:
    result = score(pictures, "--output", kept, model=tiny_compact)
    assert "5 of them reused" in result.stderr
    assert len(rows_of(kept.read_text())) == 5


def test_a_changed_file_is_scored_again(pictures: Path, tiny_compact: Path, kept: Path) -> None:
    Image.new("RGB", (40, 40), "white").save(pictures / "b.jpg")
    result = score(pictures, "--output", kept, model=tiny_compact)
    assert "4 of them reused" in result.stderr
    fresh = rows_of(score(pictures / "b.jpg", model=tiny_compact).stdout)[0]
    assert rows_of(kept.read_text())[1]["score"] == pytest.approx(fresh["score"], abs=1e-4)


def test_a_file_gone_since_is_not_reused(pictures: Path, tiny_compact: Path, kept: Path) -> None:
    listed = f"{pictures}/a.png\n{pictures}/b.jpg\n"
    (pictures / "a.png").unlink()
    result = score("-", "--output", kept, model=tiny_compact, stdin=listed)
    assert result.exit_code == 1
    assert [row["error"] is None for row in rows_of(kept.read_text())] == [False, True]


def test_rows_of_another_model_are_not_reused(pictures: Path, kept: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", seed=1)
    result = score(pictures, "--output", kept, model=other)
    assert result.exit_code == 0
    assert "reused" not in result.stderr
    assert kept.read_text() == score(pictures, model=other).stdout


def test_a_foreign_file_in_the_journals_place_is_left_alone(
    pictures: Path, tiny_compact: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "scores.csv.partial"
    foreign.write_text("my notes")
    result = score(pictures, "--output", tmp_path / "scores.csv", model=tiny_compact)
    assert result.exit_code == 2
    assert "not a journal" in result.stderr
    assert foreign.read_text() == "my notes"


def test_a_disk_that_fills_at_the_end_keeps_and_prints_all_rows(
    pictures: Path, tiny_compact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores.csv"
    out.write_text("of an earlier run")
    monkeypatch.setattr(results, "write_table", full_disk)
    result = score(pictures, "--output", out, model=tiny_compact)
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert "5 rows are kept in" in result.stderr
    assert len(rows_of(result.stdout)) == 5
    assert out.read_text() == "of an earlier run"


def test_a_disk_that_fills_midway_loses_no_row(
    pictures: Path, tiny_compact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = journal.Journal._append
    calls = iter(range(100))

    def full(self: journal.Journal, line: bytes) -> int:
        if next(calls) == 3:  # the header, two rows, then no more
            raise OSError(errno.ENOSPC, "No space left on device")
        return append(self, line)

    monkeypatch.setattr(journal.Journal, "_append", full)
    out = tmp_path / "scores.jsonl"
    result = score(pictures, "--output", out, model=tiny_compact)
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert len(rows_of(result.stdout)) == 3  # two that were kept, one that could not be
    assert not out.exists()
    monkeypatch.undo()
    assert "2 of them reused" in score(pictures, "--output", out, model=tiny_compact).stderr


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
    pictures: Path, tiny_compact: Path, tmp_path: Path
) -> None:
    """Root may write anywhere, so a folder in the journal's place stands in for permission."""
    (tmp_path / "scores.csv.partial").mkdir()
    result = score(pictures, "--output", tmp_path / "scores.csv", model=tiny_compact)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "results cannot be kept here" in result.stderr


def test_the_output_may_not_be_a_folder(pictures: Path, tiny_compact: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    result = score(pictures, "--output", tmp_path / "folder.csv", model=tiny_compact)
    assert result.exit_code == 2
    assert "is a folder" in result.stderr


def test_a_run_that_keeps_nothing_leaves_no_journal(
    pictures: Path, tiny_compact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, sha256: object, row: object) -> None:
        raise OutputError("full")

    monkeypatch.setattr(journal.Journal, "append", full)
    assert score(pictures, "--output", tmp_path / "s.csv", model=tiny_compact).exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def write_journal(target: Path, count: int, *, model: str = "m") -> Path:
    """Leave the journal of a run that was killed after `count` rows."""
    kept = journal.Journal(target, model=model)
    for number in range(count):
        row = dict.fromkeys(ROW_KEYS) | {"path": f"{number}.png", "score": number / 7}
        kept.append(f"{number:064d}", row)
    kept.close()
    return kept.path


def test_no_bit_flipped_in_a_journal_is_believed(tmp_path: Path) -> None:
    target, rng = tmp_path / "scores.csv", np.random.default_rng(0)
    path = write_journal(target, 5)
    sound = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(sound)
        damaged[rng.integers(len(sound))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        kept = journal.Journal(target, model="m")
        for number in range(5):
            name = f"{number}.png"
            row = kept.reusable(name, f"{number:064d}") if kept.knows(name) else None
            assert row is None or (row["path"], row["score"]) == (name, number / 7)
        assert kept.found >= 3  # one flipped bit costs a line, or two that it joins
        kept.close()


@pytest.mark.parametrize("size", range(0, 900, 37))
def test_a_journal_cut_at_any_byte_goes_on(tmp_path: Path, size: int) -> None:
    target = tmp_path / "scores.csv"
    path = write_journal(target, 3)
    path.write_bytes(path.read_bytes()[:size])
    kept = journal.Journal(target, model="m")
    kept.append("0" * 64, dict.fromkeys(ROW_KEYS) | {"path": "new.png"})
    assert [row["path"] for row in kept.rows()] == ["new.png"]
    kept.close()


def test_rows_of_another_model_or_a_format_before_are_absent(tmp_path: Path) -> None:
    target = tmp_path / "scores.csv"
    path = write_journal(target, 2, model="other")
    with path.open("a") as file:
        file.write('{"ma-agiqa journal": 1, "version": "0.1.0", "model": "m"}\n')
        file.write('{"sha256": "00", "row": {"path": "old.png", "error": null}}\n')
    kept = journal.Journal(target, model="m")
    assert kept.found == 0
    kept.close()


def test_a_second_run_on_one_output_is_refused(
    pictures: Path, tiny_compact: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.csv"
    first = interrupted(pictures, tiny_compact, out)
    second = score(pictures, "--output", out, model=tiny_compact)
    assert second.exit_code == 2
    assert second.stderr.strip().splitlines() == [
        f"error: {out}: another run is writing this "
        "(wait until it has ended, or choose another place)"
    ]
    first.communicate()
    assert len(out.read_text().splitlines()) == 6
    assert not list(tmp_path.glob(".*"))


def test_leftovers_of_a_killed_write_are_removed(
    pictures: Path, tiny_compact: Path, tmp_path: Path
) -> None:
    (tmp_path / ".scores.0123abcd.tmp.csv").write_text("half a table")
    assert score(pictures / "a.png", "--output", tmp_path / "scores.csv", model=tiny_compact)
    assert not list(tmp_path.glob(".*"))
