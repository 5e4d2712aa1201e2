"""Excel and MATLAB files become the same columns as a CSV; what cannot be read says why."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from scipy.io import savemat

from ma_agiqa.data.readers import is_blank, number_column, read_table, text_column
from ma_agiqa.data.samples import load_table
from ma_agiqa.errors import DataError, MissingExtraError


def sheet(path: Path, *rows: tuple[object, ...]) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def test_a_sheet_is_read_as_the_text_it_shows(tmp_path: Path) -> None:
    path = sheet(
        tmp_path / "t.xlsx",
        ("image", "score", "prompt"),
        ("a, b.png", 3.6638868235, "two\nlines"),
        ("b.png", 3, 7),
        ("c.png", "4.50", None),
    )
    table = read_table(path)
    assert table.column_names == ["image", "score", "prompt"]
    assert text_column(table, "prompt", source=path) == ("two\nlines", "7", "")
    scores = number_column(table, "score", names="abc", source=path)
    assert scores.tolist() == [3.6638868235, 3.0, 4.5]


def test_a_sheet_is_a_table_of_ones_own_whatever_its_suffix(tmp_path: Path) -> None:
    path = sheet(tmp_path / "t.xlsx", ("image", "score"), ("a.png", 2.5)).rename(tmp_path / "t")
    samples = load_table(path, root=tmp_path, image_column="image", score_column="score")
    assert samples.name == ("a.png",)
    assert samples.target().tolist() == [2.5]


def test_rows_and_columns_that_hold_nothing_are_no_records(tmp_path: Path) -> None:
    path = sheet(
        tmp_path / "t.xlsx", (None, "image ", "score"), (), ("x", "a.png", 1), (None, "", None)
    )
    table = read_table(path)
    assert table.column_names == ["image", "score"]
    assert table.to_pylist() == [{"image": "a.png", "score": "1"}]


def test_a_first_row_that_is_a_record_stays_one_when_names_are_given(tmp_path: Path) -> None:
    path = sheet(tmp_path / "t.xlsx", ("DALLE", "000-1.png"), ("Glide", "000-2.png"))
    table = read_table(path, header=("folder", "file"))
    assert table.to_pylist()[0] == {"folder": "DALLE", "file": "000-1.png"}
    (tmp_path / "t.csv").write_text("DALLE,000-1.png\n")
    csv = read_table(tmp_path / "t.csv", header=("folder", "file"))
    assert csv.to_pylist() == [{"folder": "DALLE", "file": "000-1.png"}]


def test_a_sheet_with_fewer_columns_than_names_is_an_error(tmp_path: Path) -> None:
    path = sheet(tmp_path / "t.xlsx", ("DALLE",), ("Glide",))
    with pytest.raises(DataError, match="1 columns, expected 2: folder, file"):
        read_table(path, header=("folder", "file"))


def test_a_sheet_without_rows_or_with_a_name_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t.xlsx: the table has no rows"):
        read_table(sheet(tmp_path / "t.xlsx"))
    with pytest.raises(DataError, match="the table has no rows"):
        read_table(sheet(tmp_path / "t.xlsx", ("image", "score")))
    with pytest.raises(DataError, match="columns named twice: score"):
        read_table(sheet(tmp_path / "t.xlsx", ("score", "score"), (1, 2)))


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_a_sheet_cut_short_is_an_error(tmp_path: Path, keep: float) -> None:
    path = sheet(tmp_path / "t.xlsx", ("image", "score"), *((f"{i}.png", i) for i in range(99)))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match=r"t.xlsx: .*cannot be read.*\(copy it again"):
        read_table(path)


def test_an_archive_that_is_no_workbook_is_an_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.xlsx", "w") as archive:
        archive.writestr("a.txt", "not a workbook")
    with pytest.raises(DataError, match="spreadsheet or archive that cannot be read"):
        read_table(tmp_path / "t.xlsx")


def test_without_openpyxl_a_sheet_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sheet(tmp_path / "t.xlsx", ("image", "score"), ("a.png", 1))
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingExtraError, match=r"'openpyxl'.*pip install 'ma-agiqa\[data\]'"):
        read_table(path)


@pytest.mark.parametrize("form", ["4", "5"])
@pytest.mark.parametrize("shape", [(5, 1), (1, 5)])
def test_vectors_of_a_matlab_file_are_columns(
    tmp_path: Path, form: str, shape: tuple[int, int]
) -> None:
    values = np.arange(5) / 3
    variables = {"MOSz": values.reshape(shape), "matrix": np.eye(3), "subjects": 28.0}
    savemat(tmp_path / "m.mat", variables, format=form)
    table = read_table(tmp_path / "m.mat")
    assert table.column_names == ["MOSz"]
    assert table.column("MOSz").to_pylist() == values.tolist()


def test_a_matlab_file_without_a_vector_is_an_error(tmp_path: Path) -> None:
    savemat(tmp_path / "m.mat", {"matrix": np.eye(3)})
    with pytest.raises(DataError, match="holds no vector of numbers, only matrix"):
        read_table(tmp_path / "m.mat")


def test_a_matlab_file_of_version_7_3_says_how_to_save_it_again(tmp_path: Path) -> None:
    # What scipy looks at: 116 bytes of text, then the version 0x0200 and the byte order.
    text = b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM"
    (tmp_path / "m.mat").write_bytes(text + bytes(512))
    with pytest.raises(DataError, match=r"version 7\.3 is not read.*-v7'"):
        read_table(tmp_path / "m.mat")


@pytest.mark.parametrize("keep", [0, 20, 128, 150, 190])
def test_a_matlab_file_cut_short_is_an_error(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "m.mat"
    savemat(path, {"MOSz": np.arange(99.0)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"m.mat: (cannot be read|holds no vector)"):
        read_table(path)


@pytest.mark.parametrize(
    ("values", "blank"), [(",nan,NULL, ", True), ("1,,", False), ("0", False), ("none", True)]
)
def test_a_column_is_blank_when_no_row_has_a_score(
    tmp_path: Path, values: str, blank: bool
) -> None:
    rows = "".join(f"{i}.png,{value}\n" for i, value in enumerate(values.split(",")))
    (tmp_path / "t.csv").write_text("image,score\n" + rows)
    table = read_table(tmp_path / "t.csv")
    assert is_blank(table, "score") is blank
    assert is_blank(table, "no such column")
