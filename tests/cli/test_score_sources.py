"""`score` reads what lies in archives, tables and stores as it reads files, and a share of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support import many_pictures as make
from support.command_line import rows_of, run, score

PICTURES = make.pngs(5)


@pytest.fixture
def wanted(tmp_path: Path, tiny_compact: Path) -> list[object]:
    folder = make.folder(tmp_path / "plain", PICTURES)
    return [row["score"] for row in rows_of(score(folder, model=tiny_compact).stdout)]


@pytest.fixture
def bucket() -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    for name, data in PICTURES.items():
        fs.pipe_file(f"/renders/{name}", data)
    yield "memory://renders"
    fs.rm("/renders", recursive=True)


def test_archives_stores_and_tables_give_the_scores_of_files(
    tmp_path: Path, tiny_compact: Path, wanted: list[object], bucket: str
) -> None:
    places = [
        [make.tar(tmp_path / "a.tar", PICTURES)],
        [make.zipped(tmp_path / "a.zip", PICTURES)],
        [make.saved_dataset(tmp_path / "saved", PICTURES)],
        [bucket],
        [make.parquet(tmp_path / "a.parquet", PICTURES), "--column", "image", "--id", "name"],
    ]
    for words in places:
        result = score(*words, model=tiny_compact)
        rows = rows_of(result.stdout)
        assert result.exit_code == 0, result.stderr
        assert [row["score"] for row in rows] == wanted, words
        assert len({row["path"] for row in rows}) == 5
    assert [row["path"] for row in rows] == list(PICTURES)


def test_a_bad_place_is_a_row_and_the_others_go_on(
    tmp_path: Path, tiny_compact: Path, bucket: str
) -> None:
    good = make.zipped(tmp_path / "a.zip", PICTURES)
    torn = make.tar(tmp_path / "b.tar", PICTURES)
    torn.write_bytes(torn.read_bytes()[:5000])
    result = score("memory://nowhere", torn, good, model=tiny_compact)
    rows = rows_of(result.stdout)
    assert result.exit_code == 1
    assert rows[0]["path"] == "memory://nowhere"
    assert "no such file, folder or bucket" in str(rows[0]["error"])
    assert [row["score"] is None for row in rows[-5:]] == [False] * 5
    (cut,) = [row for row in rows if row["path"] == str(torn)]
    assert "cut off after" in str(cut["error"])


def test_a_stopped_run_goes_on_in_an_archive(tmp_path: Path, tiny_compact: Path) -> None:
    archive, out = make.zipped(tmp_path / "a.zip", PICTURES), tmp_path / "out.csv"
    score(archive, "--output", out, model=tiny_compact)
    whole = out.read_bytes()
    # Most of a journal, as a kill leaves it: the rows of the first three pictures.
    out.unlink()
    shorter = make.zipped(tmp_path / "b.zip", dict(list(PICTURES.items())[:3]))
    shorter.replace(archive)
    score(archive, tmp_path / "gone.png", "--output", out, model=tiny_compact)
    assert out.read_bytes().splitlines()[:4] == whole.splitlines()[:4]


def test_shards_share_the_inputs(tmp_path: Path, tiny_compact: Path, wanted: list[object]) -> None:
    archive = make.tar(tmp_path / "a.tar", PICTURES)
    shares = [
        [row["score"] for row in rows_of(score(archive, "--shard", s, model=tiny_compact).stdout)]
        for s in ("1/3", "2/3", "3/3")
    ]
    assert shares == [wanted[0::3], wanted[1::3], wanted[2::3]]
    nothing = score(archive, "--shard", "9/9", "--output", tmp_path / "o.csv", model=tiny_compact)
    assert nothing.exit_code == 0
    for wrong in ("0/3", "4/3", "3", "a/b", "1/0"):
        assert score(archive, "--shard", wrong, model=tiny_compact).exit_code == 2


def test_options_that_do_not_fit_are_refused(tmp_path: Path, tiny_compact: Path) -> None:
    table = make.parquet(tmp_path / "a.parquet", PICTURES)
    for words in (
        [table, "--id", "name"],
        [table, "--column", "name", "--id", "name"],
        [table, "--column", "image", "--keep-columns"],
    ):
        result = score(*words, model=tiny_compact)
        assert result.exit_code == 2, words
        assert "--id" in result.stderr or "--keep-columns" in result.stderr
    result = score(table, "--column", "image", "--id", "no", model=tiny_compact)
    assert result.exit_code == 1
    assert "has no column 'no'" in result.stdout


def test_pictures_in_an_archive_are_not_sorted(tmp_path: Path, tiny_compact: Path) -> None:
    archive = make.zipped(tmp_path / "a.zip", PICTURES)
    words = ("--model", tiny_compact, "--device", "cpu", "--best", "1", "--to", tmp_path / "best")
    result = run("sort", archive, *words, "--yes")
    assert result.exit_code == 2
    assert "is no file of this machine" in result.stderr
    assert not (tmp_path / "best").exists()


def test_addresses_in_a_table_are_followed(
    tmp_path: Path, tiny_compact: Path, wanted: list[object], bucket: str
) -> None:
    (tmp_path / "list.csv").write_text(
        "image\n" + "".join(f"{bucket}/{name}\n" for name in PICTURES) + f"{bucket}/gone.png\n"
    )
    out = tmp_path / "out.parquet"
    words = (tmp_path / "list.csv", "--column", "image", "--output", out)
    assert score(*words, model=tiny_compact).exit_code == 1
    rows = pq.read_table(out).to_pylist()
    assert [row["score"] for row in rows] == [*wanted, None]
    assert "no such file" in rows[-1]["error"]


def test_a_table_of_addresses_may_lie_at_one(
    tmp_path: Path, tiny_compact: Path, wanted: list[object], bucket: str
) -> None:
    urls = [f"{bucket}/{name}" for name in PICTURES]
    pq.write_table(pa.table({"url": urls, "name": list(PICTURES)}), tmp_path / "t.parquet")
    fsspec.filesystem("memory").put(str(tmp_path / "t.parquet"), "/renders/tables/t.parquet")
    for place in (f"file://{tmp_path}/t.parquet", f"{bucket}/tables/t.parquet", f"{bucket}/tables"):
        result = score(place, "--column", "url", model=tiny_compact)
        assert result.exit_code == 0, result.stderr
        rows = rows_of(result.stdout)
        assert [row["score"] for row in rows] == wanted
        assert [row["path"] for row in rows] == urls
    named = score(
        f"{bucket}/tables/t.parquet", "--column", "url", "--id", "name", model=tiny_compact
    )
    assert [row["path"] for row in rows_of(named.stdout)] == list(PICTURES)
    for words in ([f"{bucket}/tables/t.csv"], [f"{bucket}/tables/t.parquet", "--keep-columns"]):
        refused = score(*words, "--column", "url", model=tiny_compact)
        assert refused.exit_code == 2
        assert "this machine" in refused.stderr
