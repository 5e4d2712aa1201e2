"""The command line: what goes in, and what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest

from ma_agiqa.data import samples
from ma_agiqa.types import ROW_KEYS, TABLE_KEYS
from support.command_line import rows_of, run, score


def test_a_folder_gives_its_images_in_sorted_order_as_json_lines(
    pictures: Path, tiny_compact: Path
) -> None:
    result = score(pictures, model=tiny_compact)
    assert result.exit_code == 0, result.output
    rows = rows_of(result.stdout)
    names = ["a.png", "b.jpg", "below/c.png", "d.bmp", "e.PNG"]
    assert [row["path"] for row in rows] == [str(pictures / name) for name in names]
    for row in rows:
        assert tuple(row) == ROW_KEYS == (
            "path", "score", "percentile", "low", "high", "model", "error", "hint", "interval",
        )  # fmt: skip
        assert 0 <= float(str(row["score"])) <= 5
        assert row["percentile"] == pytest.approx(20 * float(str(row["score"])), abs=1e-6)
        middle = float(str(row["score"]))
        assert row["interval"] == [max(0, middle - 0.5), min(5, middle + 0.5)]
        assert (row["low"], row["high"], row["model"], row["error"]) == (0, 5, "tiny", None)
    assert "5 scored, 0 failed" in result.stderr


def test_globs_are_expanded_and_sorted(pictures: Path, tiny_compact: Path) -> None:
    rows = rows_of(score(f"{pictures}/**/*.png", model=tiny_compact).stdout)
    assert [row["path"] for row in rows] == [f"{pictures}/a.png", f"{pictures}/below/c.png"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(pictures: Path, tiny_compact: Path) -> None:
    odd = (pictures / "a.png").rename(pictures / "a[1].png")
    assert [row["path"] for row in rows_of(score(odd, model=tiny_compact).stdout)] == [str(odd)]


def test_a_list_on_stdin_is_read_line_by_line(pictures: Path, tiny_compact: Path) -> None:
    listed = f"{pictures}/a.png\r\n\n{pictures}/b.jpg\n"
    rows = rows_of(score("-", model=tiny_compact, stdin=listed).stdout)
    assert [row["path"] for row in rows] == [f"{pictures}/a.png", f"{pictures}/b.jpg"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".xlsx"])
@pytest.mark.parametrize("with_root", [False, True])
def test_a_table_column_gives_paths_relative_to_its_folder_or_the_root(
    pictures: Path, tiny_compact: Path, tmp_path: Path, suffix: str, with_root: bool
) -> None:
    names = ["below/c.png", None, "a.png"]
    table = (tmp_path if with_root else pictures) / f"list{suffix}"
    if suffix == ".csv":
        table.write_bytes(
            "\ufeffimage,prompt\r\n".encode() + b'below/c.png,"x, y"\r\n,\r\na.png,z\r\n'
        )
    elif suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"image": names}), table)
    else:
        book = openpyxl.Workbook()
        for row in (["image", "prompt"], ["below/c.png", "x"], [None, "y"], ["a.png", "z"]):
            book.worksheets[0].append(row)
        book.save(table)
    root = ["--root", pictures] if with_root else []
    result = score(table, "--column", "image", *root, model=tiny_compact)
    rows = rows_of(result.stdout)
    assert result.exit_code == 1  # the row without a path
    assert [row["path"] for row in rows][::2] == [f"{pictures}/below/c.png", f"{pictures}/a.png"]
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert "row 2 has no path" in str(rows[1]["error"])


def test_an_image_named_twice_is_scored_twice(pictures: Path, tiny_compact: Path) -> None:
    rows = rows_of(score(pictures / "a.png", pictures / "a.png", model=tiny_compact).stdout)
    assert len(rows) == 2
    assert rows[0] == rows[1]


def test_the_columns_of_a_table_are_kept_on_request(
    pictures: Path, tiny_compact: Path, tmp_path: Path
) -> None:
    table = pictures / "list.csv"
    table.write_text("id,image,score\n07,a.png,3.5\n08,gone.png,\n")
    words = (table, "--column", "image")
    plain = rows_of(score(*words, model=tiny_compact).stdout)
    assert [tuple(row) for row in plain] == [ROW_KEYS, ROW_KEYS]
    kept = score(*words, "--keep-columns", model=tiny_compact)
    expected = [
        {**plain[0], "id": "07", "image": "a.png", "table_score": "3.5"},
        {**plain[1], "id": "08", "image": "gone.png", "table_score": None},
    ]
    assert rows_of(kept.stdout) == expected
    header = score(*words, "--keep-columns", "--format", "csv", model=tiny_compact).stdout
    assert header.splitlines()[0] == ",".join([*TABLE_KEYS, "id", "image", "table_score"])
    for suffix in (".csv", ".jsonl", ".parquet"):
        out = tmp_path / f"scores{suffix}"
        score(*words, "--keep-columns", "--output", out, model=tiny_compact)
        if suffix == ".parquet":
            flat = [{k: v for k, v in row.items() if k != "interval"} for row in expected]
            assert pyarrow.parquet.read_table(out).to_pylist() == flat
        elif suffix == ".jsonl":
            assert rows_of(out.read_text()) == expected
        else:
            assert out.read_text().splitlines()[1].endswith(",07,a.png,3.5")


def test_files_without_an_image_suffix_are_counted_at_the_end(
    pictures: Path, tiny_compact: Path
) -> None:
    result = score(pictures, model=tiny_compact)
    assert result.stderr.splitlines()[-1] == "1 file passed over: no image suffix"
    (pictures / "below" / "noext").write_bytes((pictures / "a.png").read_bytes())
    (pictures / "below" / "x.heic").touch()
    result = score(pictures, model=tiny_compact)
    assert len(rows_of(result.stdout)) == 5
    assert result.stderr.splitlines()[-1] == "3 files passed over: no image suffix"


def test_a_folder_without_images_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "x.heic").touch()
    result = run("score", tmp_path)
    assert result.exit_code == 2
    assert "1 file passed over: no image suffix" in result.stderr


# What is wrong with it


def test_a_link_that_loops_is_a_row_and_the_rest_is_scored(
    pictures: Path, tiny_compact: Path
) -> None:
    (pictures / "b2.png").symlink_to("b2.png")
    (pictures / "loop").symlink_to(".")
    result = score(pictures, model=tiny_compact)
    rows = rows_of(result.stdout)
    assert result.exit_code == 1
    assert len(rows) == 6
    assert [Path(str(row["path"])).name for row in rows if row["error"]] == ["b2.png"]


def test_a_folder_may_be_deeper_than_python_recurses(tmp_path: Path) -> None:
    folders = [f"{tmp_path}{'/d' * depth}" for depth in range(1, 1200)]
    for folder in folders:
        os.mkdir(folder)
    Path(folders[-1], "note.txt").touch()
    assert "1 file passed over" in run("score", tmp_path).stderr
    Path(folders[-1], "note.txt").unlink()
    for folder in reversed(folders):  # what removes a test's folder recurses
        os.rmdir(folder)


def test_bad_images_become_rows_and_the_status_is_1(
    pictures: Path, tiny_compact: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    result = score(tmp_path / "missing.png", empty, pictures / "a.png", model=tiny_compact)
    rows = rows_of(result.stdout)
    assert result.exit_code == 1
    assert [row["score"] is None for row in rows] == [True, True, False]
    assert "no such file" in str(rows[0]["error"])
    assert "empty" in str(rows[1]["error"])
    assert "1 scored, 2 failed" in result.stderr


def test_an_empty_folder_beside_images_is_a_row(
    pictures: Path, tiny_compact: Path, tmp_path: Path
) -> None:
    barren = tmp_path / "barren"
    barren.mkdir()
    result = score(barren, pictures, model=tiny_compact)
    assert result.exit_code == 1
    assert rows_of(result.stdout)[-1]["error"] == "no images found here"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["EMPTY"], "no images found in"),
        (["EMPTY/*.png"], "no images found in"),
        (["-", "-"], "only once"),
        (["table.csv"], "--column"),
        (["PICTURES", "--column", "image"], "CSV, Parquet and Excel"),
        (["PICTURES", "--root", "."], "--column"),
        (["PICTURES", "--keep-columns"], "--keep-columns belongs to one table"),
        (["PICTURES", "--output", "scores.xlsx"], ".parquet"),
        (["PICTURES", "--output", "PICTURES/a.png/scores.csv"], "folder cannot be made"),
        (["PICTURES", "--fail-under", "nan"], "finite"),
        (["PICTURES", "--device", "toaster"], "toaster"),
    ],
)
def test_wrong_use_is_one_line_on_stderr_and_status_2(
    pictures: Path, tiny_compact: Path, tmp_path: Path, words: list[str], reason: str
) -> None:
    (tmp_path / "empty").mkdir()
    words = [
        w.replace("PICTURES", str(pictures)).replace("EMPTY", f"{tmp_path}/empty") for w in words
    ]
    result = score(*words, model=tiny_compact)
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
    tiny_compact: Path, tmp_path: Path, suffix: str
) -> None:
    table = tmp_path / f"list{suffix}"
    if suffix == ".csv":
        table.write_text("picture,mos\na.png,1\n")
    else:
        pyarrow.parquet.write_table(pyarrow.table({"picture": ["a.png"], "mos": [1]}), table)
    result = score(table, "--column", "image", model=tiny_compact)
    assert result.exit_code == 2
    assert "no column 'image'" in result.stderr
    assert "picture, mos" in result.stderr


@pytest.mark.parametrize("content", [b"", b"PAR1 but no more", b"\xff\xfe\x00image\n\x00"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_damaged_table_is_an_error_that_names_it(
    tiny_compact: Path, tmp_path: Path, suffix: str, content: bytes
) -> None:
    table = tmp_path / f"list{suffix}"
    table.write_bytes(content)
    result = score(table, "--column", "image", model=tiny_compact)
    assert result.exit_code == 2
    assert str(table) in result.stderr


def test_a_damaged_table_loses_no_row_before_the_damage(
    pictures: Path, tiny_compact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "CHUNK", 10)
    table = tmp_path / "list.csv"
    good = f"image,note\n{pictures}/a.png,\n{pictures}/b.jpg,\n".encode()
    # Beyond one read of the decoder, so that the first rows are out before it is met.
    table.write_bytes(good + f"{pictures}/a.png,{'-' * 4000}\n".encode() * 60 + b"\xff\n")
    out = tmp_path / "scores.jsonl"
    result = score(table, "--column", "image", "--output", out, model=tiny_compact)
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
