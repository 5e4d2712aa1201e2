"""Files appear whole or not at all; numbers carry where they come from."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from ma_agiqa import provenance
from ma_agiqa.errors import OutputError
from ma_agiqa.files import atomic_path, sha256, write_atomically

FULL = "/dev/full"  # a device whose every write fails as on a full disk


def test_text_and_bytes_are_written_in_a_folder_made_for_them(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "a.txt", "Größe\n")
    write_atomically(tmp_path / "new" / "a.bin", b"\0\xff")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "Größe\n".encode()
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"\0\xff"
    assert sorted(os.listdir(tmp_path / "new")) == ["a.bin", "a.txt"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.suffix == ".json"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(failure):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_is_an_output_error_that_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OutputError, match=r"a.json: .*No space left"), atomic_path(target):
        raise full
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_in_the_way_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OutputError, match=r"a.json"):
        write_atomically(tmp_path / "a.json", "x")
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_file_as_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "a.json", "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_an_output_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        write_atomically(tmp_path / "a.json", "x")


def test_an_error_about_another_file_passes_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_path(tmp_path / "a.json"):
        (tmp_path / "elsewhere").read_text()


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_atomically(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_atomically(os.devnull, "x")
    assert not Path(os.devnull).is_file()


@pytest.mark.skipif(not Path(FULL).exists(), reason=f"no {FULL} here")
def test_a_full_device_is_an_output_error() -> None:
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(FULL, "x")


def test_the_environment_names_machine_versions_and_date() -> None:
    made = provenance.environment()
    assert re.search(r", \d+ cores?", made.hardware)
    assert {"ma-agiqa", "python", "numpy", "scipy"} <= set(made.versions)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made.date)
    assert made.commit is None or re.fullmatch(r"[0-9a-f]{40}(\+dirty)?", made.commit)


def test_the_commit_is_marked_when_files_changed_and_is_never_another_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "src" / "ma_agiqa"
    package.mkdir(parents=True)
    (package / "provenance.py").write_text("")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert provenance.commit() is None

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "x")
    clean = provenance.commit()
    assert clean is not None
    assert re.fullmatch(r"[0-9a-f]{40}", clean)
    (package / "provenance.py").write_text("changed")
    assert provenance.commit() == f"{clean}+dirty"
    inside = tmp_path / "venv" / "ma_agiqa"
    inside.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(inside / "provenance.py"))
    assert provenance.commit() is None


def test_the_hash_of_files_is_that_of_their_bytes_in_order(tmp_path: Path) -> None:
    contents = [bytes(range(256)) * 5000, b"", b"end"]  # the first is longer than one block
    paths = [tmp_path / str(number) for number in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert sha256(*paths) == hashlib.sha256(b"".join(contents)).hexdigest()
    assert sha256(paths[2], paths[0]) != sha256(paths[0], paths[2])
    with pytest.raises(OSError, match="nowhere"):
        sha256(paths[0], tmp_path / "nowhere")
