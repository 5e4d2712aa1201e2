"""The command line as a process: pipes, terminals, start-up, and the other lists."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ma_agiqa.cli import progress
from ma_agiqa.version import __version__
from support.command_line import MAIN, rows_of, run


def test_a_reader_that_goes_away_ends_the_run_quietly(pictures: Path, tiny_compact: Path) -> None:
    with subprocess.Popen(
        [*MAIN, "score", *[pictures] * 50, "--model", tiny_compact, "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        complaint = process.stderr.read()
        assert process.wait(timeout=60) == 141
    assert b"Traceback" not in complaint
    assert b"Exception ignored" not in complaint


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_stdout_is_one_line_on_stderr(pictures: Path, tiny_compact: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*MAIN, "score", pictures, "--model", tiny_compact, "--device", "cpu"],
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


def test_a_terminal_gets_a_table(pictures: Path, tiny_compact: Path) -> None:
    shown, _ = on_terminal("score", pictures, "--model", tiny_compact, "--device", "cpu")
    assert "score (0 to 5)" in shown
    assert '{"path"' not in shown


def test_json_lines_stay_on_stdout_when_only_stderr_is_a_terminal(
    pictures: Path, tiny_compact: Path
) -> None:
    """A progress bar takes what is printed beside it to its own stream unless told not to."""
    shown, printed = on_terminal(
        "score", pictures, "--model", tiny_compact, "--device", "cpu", stdout=subprocess.PIPE
    )
    assert len(rows_of(printed)) == 5
    assert "5 scored" in shown


def test_text_of_a_failure_stands_on_a_line_of_its_own(pictures: Path, tiny_compact: Path) -> None:
    """Written past the bar, it would begin where the bar ends."""
    shown, _ = on_terminal(
        *("score", pictures, "gone.png", "--top", 1, "--batch-size", 1),
        *("--model", tiny_compact, "--device", "cpu"),
    )
    (line,) = [line for line in shown.split("\n") if "failed: gone.png" in line]
    before = line.rpartition("\x1b[2K")[2]
    assert before.startswith("failed: gone.png")


def test_without_a_terminal_a_line_comes_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    with progress.progress(lambda: 7, title="extracting", quiet=False) as shown:
        shown.advance()
        shown.advance()
        time.sleep(0.3)
    assert "extracting: 2 of 7 images\n" in capsys.readouterr().err
    with progress.progress(lambda: 7, title="extracting", quiet=True) as shown:
        shown.advance()
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_shell_completion_can_be_shown() -> None:
    done = subprocess.run(
        [*MAIN, "--show-completion", "bash"],
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout


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


def test_a_score_loads_no_compiler(pictures: Path, tiny_compact: Path) -> None:
    """An operation that torch implements in Python brings SymPy, most of a second."""
    picture = pictures / "a.png"
    modules = loaded_by(
        "import ma_agiqa.cli\nwith contextlib.suppress(SystemExit):"
        f" ma_agiqa.cli.app(['score', {str(picture)!r}, '--model', {str(tiny_compact)!r}])"
    )
    assert {"sympy", "torch._dynamo", "torch._inductor", "scipy", "transformers"}.isdisjoint(
        modules
    )


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
    assert f"{tmp_path}: the annotations of AGIQA-3K are not there" in result.stdout


@pytest.mark.parametrize("closed", ["1>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_do_not_stop_a_run(
    pictures: Path, tiny_compact: Path, tmp_path: Path, closed: str
) -> None:
    """Cron and daemons start programs without them."""
    out = tmp_path / "scores.csv"
    words = [*MAIN, "score", pictures / "a.png", "--model", tiny_compact, "--output", out]
    line = shlex.join(map(str, words))
    assert subprocess.run(["bash", "-c", f"{line} {closed}"]).returncode == 0
    assert out.read_text().count("\n") == 2


def test_file_names_cannot_steer_a_terminal(tiny_compact: Path, tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31m\x1b]0;title\x07\u202egpj.png").write_bytes(b"no image")
    result = run("score", tmp_path, "--format", "table", "--model", tiny_compact)
    assert result.exit_code == 1
    assert not set("\x1b\x07\u202e") & set(result.stdout + result.stderr)
    assert "\\x1b[31m" in result.stdout.replace("\n", "").replace(" ", "")
