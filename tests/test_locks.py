"""Two processes never write one result, and a folder is replaced in one step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ma_agiqa import files
from ma_agiqa.errors import OutputError
from ma_agiqa.files import Lock, lock_folder, recover_folder, remove_leftovers, replace_folder

HOLDER = """
import sys
from ma_agiqa.files import Lock
lock = Lock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def holder(place: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    first = holder(tmp_path / "scores.csv")
    with pytest.raises(OutputError, match="another run is writing this"):
        Lock(tmp_path / "scores.csv")
    Lock(tmp_path / "other.csv").release()
    first.communicate()
    Lock(tmp_path / "scores.csv").release()


def test_the_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        first.kill()
    assert (tmp_path / ".lock").exists()
    with lock_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_in_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        Lock(tmp_path / "missing" / "scores.csv")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        lock_folder(tmp_path / "file" / "run")


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["new"]
    assert not (tmp_path / ".old-old").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is of Linux")
def test_the_system_exchanges_two_folders(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert files._exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "other").exists()
    assert (tmp_path / "other" / "one").exists()


def test_what_a_kill_within_a_replacement_left_is_put_back(tmp_path: Path) -> None:
    target, old = tmp_path / "model", tmp_path / ".model-old"
    old.mkdir()
    (old / "weights").touch()
    recover_folder(target)
    assert (target / "weights").exists()
    old.mkdir()
    recover_folder(target)  # the new one is there: the old one has no use
    assert not old.exists()
    assert (target / "weights").exists()


def test_only_leftovers_of_the_target_are_removed(tmp_path: Path) -> None:
    own, other = tmp_path / ".a.0123abcd.tmp.csv", tmp_path / ".b.0123abcd.tmp.csv"
    own.touch()
    other.touch()
    remove_leftovers(tmp_path, of=tmp_path / "a.csv", older_than=0)
    assert not own.exists()
    assert other.exists()
