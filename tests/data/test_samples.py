"""Tables of every kind become samples; what cannot be read says why."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet
import pytest
from scipy.io import savemat

from ma_agiqa.data.samples import (
    Samples,
    TableColumns,
    is_blank,
    load_table,
    number_column,
    read_table,
    require_images,
    stream_rows,
    text_column,
)
from ma_agiqa.errors import DataError, MissingExtraError


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(path: Path) -> Samples:
    return load_table(path, path.parent, TableColumns())


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_csv_is_read_whatever_its_line_ends_and_mark(
    tmp_path: Path, line_end: str, mark: bytes
) -> None:
    lines = ["image,score,prompt", '"a, b.png",2.5,007', '007,-1e0,"two\nlines"']
    samples = load_table(
        write(tmp_path, mark + line_end.join(lines).encode()),
        tmp_path,
        TableColumns(prompt="prompt"),
    )
    assert samples.name == ("a, b.png", "007")
    assert samples.path == (tmp_path / "a, b.png", tmp_path / "007")
    assert samples.target().tolist() == [2.5, -1.0]
    assert samples.groups == {"prompt": ("007", "two\nlines")}
    assert samples.dataset == "table"


def test_a_parquet_is_read_whatever_its_suffix(tmp_path: Path) -> None:
    table = pa.table({"image": ["a.png", "b.png"], "score": pa.array([1, 4], pa.int32())})
    pa.parquet.write_table(table, tmp_path / "scores.data")
    samples = load(tmp_path / "scores.data")
    assert samples.name == ("a.png", "b.png")
    assert samples.target("score").tolist() == [1.0, 4.0]


def test_absolute_image_paths_stay_and_others_start_at_the_root(tmp_path: Path) -> None:
    table = write(tmp_path, "image,score\n/elsewhere/a.png,1\n../b.png,2\n")
    samples = load(table)
    assert samples.path == (Path("/elsewhere/a.png"), tmp_path / ".." / "b.png")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read as a table: No columns"),
        ("image,score\n", "no rows"),
        ("image,Score\na.png,1\n", "no column 'score'; there are image, Score; did you mean Score"),
        ("image,score\na.png,1\nb.png,nan\n", r"1 of 2 .*: row 2 \(b.png\): 'nan'"),
        ("image,score\na.png,inf\n", r"row 1 \(a.png\): 'inf'"),
        ("image,score\na.png,\n", r"row 1 \(a.png\): ''"),
        ("image,score\na.png,good\n", r"row 1 \(a.png\): 'good'"),
        ("image,score\na.png,1_0\n", r"row 1 \(a.png\): '1_0'"),
        ("image,score\na.png,1\na.png,2\n", "a.png occur more than once"),
        ("image,score\na.png,1\n,2\n", "row 2 has an empty 'image'"),
        ("image,score\na.png,1,2\n", "cannot be read as a table"),
        ("image,score,score\na.png,1,2\n", "columns named twice: score"),
        (b"image,score\n\xff\xfe.png,1\n", "cannot be read as a table"),
        (b"PK\x03\x04rest of a workbook", "spreadsheet or archive that cannot be read"),
        (b"PAR1 and then nonsense", "cannot be read as a table"),
    ],
)
def test_a_bad_table_says_what_is_wrong_and_where(
    tmp_path: Path, text: str | bytes, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        load(write(tmp_path, text))


def test_a_missing_score_in_a_parquet_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pa.parquet.write_table(pa.table({"image": ["a", "b"], "score": [1.0, None]}), path)
    with pytest.raises(DataError, match=r"row 2 \(b\): nan"):
        load(path)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None])
def test_a_folder_or_nothing_is_not_a_table(tmp_path: Path, make: object) -> None:
    path = tmp_path / "nowhere.csv"
    make(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"nowhere.csv: (no such file|cannot be read)"):
        read_table(path)


def test_missing_images_are_an_error_only_when_required(tmp_path: Path) -> None:
    samples = load(write(tmp_path, "image,score\n" + "".join(f"{i}.png,1\n" for i in range(8))))
    (tmp_path / "0.png").touch()
    with pytest.raises(DataError, match=r"7 of 8 images .*1.png.* and 2 more"):
        require_images(samples)
    require_images(samples.subset([0]))


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(DataError, match="'quality': 1"):
        Samples(("a", "b"), (Path("a"), Path("b")), {"quality": np.ones(1)}, {}, "mine")


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
    assert list(table.columns) == ["image", "score", "prompt"]
    assert text_column(table, "prompt", source=path) == ("two\nlines", "7", "")
    scores = number_column(table, "score", names="abc", source=path)
    assert scores.tolist() == [3.6638868235, 3.0, 4.5]


def test_a_sheet_is_a_table_of_ones_own_whatever_its_suffix(tmp_path: Path) -> None:
    path = sheet(tmp_path / "t.xlsx", ("image", "score"), ("a.png", 2.5)).rename(tmp_path / "t")
    samples = load_table(path, tmp_path, TableColumns())
    assert samples.name == ("a.png",)
    assert samples.target().tolist() == [2.5]


def test_rows_and_columns_that_hold_nothing_are_no_records(tmp_path: Path) -> None:
    path = sheet(
        tmp_path / "t.xlsx", (None, "image ", "score"), (), ("x", "a.png", 1), (None, "", None)
    )
    table = read_table(path)
    assert list(table.columns) == ["image", "score"]
    assert table.to_dict("records") == [{"image": "a.png", "score": "1"}]


def test_a_first_row_that_is_a_record_stays_one_when_names_are_given(tmp_path: Path) -> None:
    path = sheet(tmp_path / "t.xlsx", ("DALLE", "000-1.png"), ("Glide", "000-2.png"))
    table = read_table(path, header=("folder", "file"))
    assert table.to_dict("records")[0] == {"folder": "DALLE", "file": "000-1.png"}
    (tmp_path / "t.csv").write_text("DALLE,000-1.png\n")
    csv = read_table(tmp_path / "t.csv", header=("folder", "file"))
    assert csv.to_dict("records") == [{"folder": "DALLE", "file": "000-1.png"}]


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
    with pytest.raises(MissingExtraError, match=r"'openpyxl'.*pip install .*\[data\]'"):
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
    assert list(table.columns) == ["MOSz"]
    assert table["MOSz"].tolist() == values.tolist()


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


def test_a_stored_index_is_a_column_and_whole_numbers_stay_whole(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"prompt": pd.array([7, None], "Int64")}, index=["a.png", "b.png"])
    frame.rename_axis("image").to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert text_column(table, "image", source="t") == ("a.png", "b.png")
    assert text_column(table, "prompt", source="t") == ("7", "")


def test_a_column_of_a_long_table_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"image,x\n" + b"a.png,1\n" * 30_000 + b"\xff,1\n")
    texts = (text for text, _ in stream_rows(path, "image"))
    assert [next(texts) for _ in range(20_000)] == ["a.png"] * 20_000
    with pytest.raises(DataError, match="cannot be read as a table: 'utf-8' codec"):
        list(texts)


def test_a_column_of_numbers_holds_no_paths(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"image": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column 'image' holds int values, not text"):
        list(stream_rows(tmp_path / "t.parquet", "image"))


def test_pandas_is_imported_only_to_read_a_table(tmp_path: Path) -> None:
    code = (
        "import sys, ma_agiqa.data.datasets, ma_agiqa.data.verify; from ma_agiqa.cli import app; "
        "from typer.testing import CliRunner; run = CliRunner().invoke; run(app, ['--help']); "
        f"run(app, ['datasets']); run(app, ['score', {str(tmp_path)!r}]); print(*sys.modules)"
    )
    names = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "ma_agiqa.data.datasets" in names
    assert "pandas" not in names
