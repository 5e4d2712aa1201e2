"""Images in archives, tables and object stores are read as their files would be."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ma_agiqa.data import sources
from ma_agiqa.data.sources import Unit
from ma_agiqa.errors import DataError, ImageError
from support import many_pictures as make

PICTURES = make.pngs(7)

PLACES: dict[str, Callable[[Path], Path]] = {
    "folder": lambda root: make.folder(root / "pictures", PICTURES),
    "tar": lambda root: make.tar(root / "pictures.tar", PICTURES),
    "tar.gz": lambda root: make.tar(root / "pictures.tar.gz", PICTURES),
    "zip": lambda root: make.zipped(root / "pictures.zip", PICTURES),
    "parquet": lambda root: make.parquet(root / "pictures.parquet", PICTURES),
    "saved data set": lambda root: make.saved_dataset(root / "pictures", PICTURES),
}


def read(units: list[Unit]) -> list[tuple[str, bytes]]:
    return [(item.name, item.read()) for unit in units for item in unit.items()]


@pytest.fixture
def memory() -> Iterator[str]:
    """An object store: fsspec's in memory stands for s3, gs and az."""
    fs = fsspec.filesystem("memory")
    yield "memory://bucket"
    if fs.exists("/bucket"):
        fs.rm("/bucket", recursive=True)


@pytest.mark.parametrize("kind", PLACES)
def test_every_kind_of_place_gives_all_pictures_in_order(tmp_path: Path, kind: str) -> None:
    column = "content" if kind == "parquet" else None
    units = sources.plan(str(PLACES[kind](tmp_path)), column=column)
    found = read(units)
    assert [data for _, data in found] == list(PICTURES.values())
    assert len({name for name, _ in found}) == len(PICTURES), "names tell pictures apart"
    again = read([Unit.from_json(unit.to_json()) for unit in units])
    assert again == found, "another process reads the same"
    assert sources.count(units) in (len(PICTURES), None)


@pytest.mark.parametrize("kind", PLACES)
def test_an_object_store_gives_what_the_disk_gives(tmp_path: Path, memory: str, kind: str) -> None:
    if kind == "saved data set":
        pytest.skip("a folder of Arrow files in a store is read as such")
    place = PLACES[kind](tmp_path)
    fs = fsspec.filesystem("memory")
    fs.put(str(place), f"/bucket/{place.name}", recursive=True)
    column = "image" if kind == "parquet" else None
    found = read(sources.plan(f"{memory}/{place.name}", column=column))
    assert [data for _, data in found] == list(PICTURES.values())
    assert all(name.startswith("memory://") for name, _ in found)


def test_a_folder_may_hold_shards_and_pictures(tmp_path: Path) -> None:
    root = make.folder(tmp_path / "mixed", {"z.png": make.png(50)})
    make.tar(root / "b.tar", make.pngs(2))
    make.tar(root / "a.tar", make.pngs(3))
    (root / ".hidden.png").write_bytes(b"no")
    (root / "notes.txt").write_bytes(b"no")
    names = [Path(name).relative_to(root).as_posix() for name, _ in read(sources.plan(str(root)))]
    shards = [f"a.tar/00{n}.png" for n in range(3)] + [f"b.tar/00{n}.png" for n in range(2)]
    assert names == [*shards, "z.png"]


def test_a_result_inside_its_source_is_no_part_of_it(tmp_path: Path, memory: str) -> None:
    for name, data in PICTURES.items():
        fsspec.filesystem("memory").pipe_file(f"/bucket/{name}", data)
    for root in (str(make.folder(tmp_path / "in", PICTURES)), memory):
        first = sources.plan(root, out=f"{root}/out")
        fs, path = sources.file_system(root)
        fs.pipe_file(f"{path}/outer.png", make.png(7))
        fs.makedirs(f"{path}/out")
        fs.pipe_file(f"{path}/out/scores-00000.parquet", b"scores")
        names = [name for name, _ in read(sources.plan(root, out=f"{root}/out/"))]
        assert names[:-1] == [name for name, _ in read(first)]
        assert names[-1].endswith("/outer.png")
        assert len(read(sources.plan(f"{root}/*.png", out=root))) == 8, "the job itself refuses it"


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_links_to_a_result_inside_its_source_change_nothing(tmp_path: Path) -> None:
    root = make.folder(tmp_path / "in", PICTURES)
    (root / "out").mkdir()
    (root / "out/scores-00000.parquet").write_bytes(b"scores")
    (tmp_path / "result").symlink_to(root / "out")
    (tmp_path / "again").symlink_to(root)
    for source in (root, tmp_path / "again"):
        for out in (tmp_path / "result", tmp_path / "again/out", root / "out"):
            found = [data for _, data in read(sources.plan(str(source), out=str(out)))]
            assert found == list(PICTURES.values()), (source, out)


def test_a_state_of_another_program_makes_no_data_set(tmp_path: Path) -> None:
    root = make.folder(tmp_path / "pictures", PICTURES)
    (root / "state.json").write_text("{}")
    assert not sources.is_source(str(root))
    assert [data for _, data in read(sources.plan(str(root)))] == list(PICTURES.values())


def test_names_of_cameras_are_pictures_and_unfinished_work_is_none(tmp_path: Path) -> None:
    root = tmp_path / "mixed"
    pictures = {"_DSC1.png": make.png(0), "_sorted/_MG_1234.JPG": make.png(1)}
    passed_over = ("_work/0.parquet", "_temporary/0/a.png", "_delta_log/0.parquet", ".x/a.png")
    for name, data in (pictures | dict.fromkeys(passed_over, b"no")).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    assert [data for _, data in read(sources.plan(str(root)))] == list(pictures.values())


def test_a_pattern_and_a_file_are_sources_too(tmp_path: Path, memory: str) -> None:
    fs = fsspec.filesystem("memory")
    for name, data in PICTURES.items():
        fs.pipe_file(f"/bucket/.hidden/{name}", data)
    found = read(sources.plan(f"{memory}/.hidden/00[0-2].png"))
    assert [data for _, data in found] == list(PICTURES.values())[:3]
    assert read(sources.plan(f"{memory}/.hidden/004.png")) == [
        (f"{memory}/.hidden/004.png", PICTURES["004.png"])
    ]
    (tmp_path / "no-suffix").write_bytes(PICTURES["000.png"])
    assert read(sources.plan(str(tmp_path / "no-suffix")))[0][1] == PICTURES["000.png"]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_whose_name_reads_as_a_pattern_is_a_folder(tmp_path: Path, scheme: str) -> None:
    make.folder(tmp_path / "summer 2", make.pngs(1))
    place = make.folder(tmp_path / "summer [2023]", PICTURES)
    units = sources.plan(f"{scheme}{place}")
    assert [data for _, data in read(units)] == list(PICTURES.values())


def test_so_is_one_in_a_store(memory: str) -> None:
    fs = fsspec.filesystem("memory")
    for name, data in PICTURES.items():
        fs.pipe_file(f"/bucket/summer [2023]/{name}", data)
    fs.pipe_file("/bucket/summer 2/a.png", make.png(0))
    units = sources.plan(f"{memory}/summer [2023]")
    assert [data for _, data in read(units)] == list(PICTURES.values())


def test_a_container_that_is_gone_is_one_item_that_says_so(tmp_path: Path) -> None:
    (remote,) = sources.plan("memory://bucket/gone.tar")
    (local,) = sources.plan(str(make.zipped(tmp_path / "gone.zip", PICTURES)))
    (tmp_path / "gone.zip").unlink()
    for unit in (remote, local):
        (item,) = unit.items()
        with pytest.raises(ImageError, match="no such file"):
            item.read()


def test_rows_are_named_by_a_column_by_their_place_or_by_their_address(tmp_path: Path) -> None:
    table = make.parquet(tmp_path / "p.parquet", PICTURES)
    named = read(sources.plan(str(table), column="content", names="name"))
    assert [name for name, _ in named] == list(PICTURES)
    numbered = read(sources.plan(str(table), column="image"))
    assert [name for name, _ in numbered] == [f"{table}[{n}]" for n in range(1, 8)]
    make.folder(tmp_path / "files", PICTURES)
    addresses = [f"file://{tmp_path}/files/{name}" for name in PICTURES]
    pq.write_table(
        pa.table({"uri": [*addresses[:3], *(f"files/{n}" for n in list(PICTURES)[3:])]}),
        tmp_path / "uris.parquet",
    )
    found = read(sources.plan(str(tmp_path / "uris.parquet"), column="uri"))
    assert [data for _, data in found] == list(PICTURES.values())
    assert found[0][0] == addresses[0]
    assert found[6][0] == str(tmp_path / "files" / "006.png")


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("unit_rows", [2, 3, 5])
def test_units_cut_a_table_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, unit_rows: int
) -> None:
    monkeypatch.setattr(sources, "LEAST_UNIT", unit_rows)
    monkeypatch.setattr(sources, "ROWS_AT_A_TIME", 2)
    for place in (
        make.parquet(tmp_path / "p.parquet", PICTURES, rows=rows),
        make.saved_dataset(tmp_path / "saved", PICTURES),
    ):
        units = sources.plan(str(place), column="image")
        assert all(0 < unit.stop - unit.start <= unit_rows for unit in units)
        found = read(units)
        assert [data for _, data in found] == list(PICTURES.values())
        assert len({name for name, _ in found}) == len(PICTURES)


def test_there_is_something_to_do_for_many_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LEAST_UNIT", 1)
    monkeypatch.setattr(sources, "UNITS", 4)
    half = list(PICTURES.items())[: len(PICTURES) // 2]
    make.parquet(tmp_path / "p.parquet", dict(half), rows=100)
    make.folder(tmp_path / "files", PICTURES)
    units = sources.plan(str(tmp_path), column="image")
    assert len(units) >= 4
    assert len(read(units)) == len(PICTURES) + len(half)


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_tar_that_is_cut_off_gives_what_is_before_and_says_so(tmp_path: Path, kind: str) -> None:
    place = PLACES[kind](tmp_path)
    place.write_bytes(place.read_bytes()[: place.stat().st_size // 2])
    items = [item for unit in sources.plan(str(place)) for item in unit.items()]
    whole = [item.read() for item in items[:-1]]
    assert 0 < len(whole) < 7
    assert whole == list(PICTURES.values())[: len(whole)]
    with pytest.raises(ImageError, match=rf"cut off after {len(whole)} images"):
        items[-1].read()


@pytest.mark.parametrize("cut", [False, True])
def test_a_tar_that_is_damaged_between_its_members_says_so(tmp_path: Path, cut: bool) -> None:
    place = PLACES["tar"](tmp_path)
    data = bytearray(place.read_bytes())
    at = data.index(b"003.png")
    data[at] ^= 1  # the header's checksum is wrong
    place.write_bytes(data[: at + 100] if cut else data)
    *whole, last = (item for unit in sources.plan(str(place)) for item in unit.items())
    assert [item.read() for item in whole] == list(PICTURES.values())[:3]
    with pytest.raises(ImageError, match="cut off after 3 images"):
        last.read()


def test_a_damaged_member_of_a_zip_costs_its_row(tmp_path: Path) -> None:
    place = PLACES["zip"](tmp_path)
    data = bytearray(place.read_bytes())
    at = data.index(PICTURES["003.png"][50:90])
    data[at] ^= 255
    place.write_bytes(data)
    items = [item for unit in sources.plan(str(place)) for item in unit.items()]
    for item, (name, content) in zip(items, PICTURES.items(), strict=True):
        if name == "003.png":
            with pytest.raises(ImageError, match="cannot be taken from the archive"):
                item.read()
        else:
            assert item.read() == content


def test_a_zip_whose_compressed_data_are_damaged_costs_that_row(tmp_path: Path) -> None:
    place = make.zipped(tmp_path / "a.zip", PICTURES, method=zipfile.ZIP_LZMA)
    data = bytearray(place.read_bytes())
    at = data.index(b"000.png") + len("000.png") + 12  # behind the properties of LZMA
    data[at : at + 40] = bytes(40)
    _costs_its_row(place, data, "Corrupt input data")


@pytest.mark.parametrize("listed", [False, True])
def test_a_zip_with_a_name_that_is_not_the_utf8_it_says(tmp_path: Path, listed: bool) -> None:
    place = make.zipped(tmp_path / "a.zip", PICTURES)
    data = bytearray(place.read_bytes())
    flags, name = (8, 46) if listed else (6, 30)
    at = (data.rindex if listed else data.index)(b"000.png") - name
    data[at + flags + 1] = 8
    data[at + name] = 255
    judge = _is_one_error if listed else _costs_its_row
    judge(place, data, "can't decode byte 0xff")


def test_a_zip_of_an_unknown_version_is_one_error(tmp_path: Path) -> None:
    place = make.zipped(tmp_path / "a.zip", PICTURES)
    data = bytearray(place.read_bytes())
    data[data.rindex(b"000.png") - 46 + 6] = 99
    _is_one_error(place, data, r"zip file version 9\.9")


def test_a_member_without_a_name_is_passed_over(tmp_path: Path) -> None:
    place = make.zipped(tmp_path / "a.zip", PICTURES)
    with zipfile.ZipFile(place, "a") as archive:
        archive.writestr(zipfile.ZipInfo("x"), b"")
    data = bytearray(place.read_bytes())
    at = data.rindex(b"x", 0, data.rindex(b"PK\5\6"))
    data[at - 46 + 28] = 0  # the name's length
    data[at - 46 + 32] = 1  # so the letter counts as a comment
    place.write_bytes(data)
    assert [content for _, content in read(sources.plan(str(place)))] == list(PICTURES.values())


def _costs_its_row(place: Path, damaged: bytes, reason: str) -> None:
    place.write_bytes(damaged)
    first, *others = (item for unit in sources.plan(str(place)) for item in unit.items())
    with pytest.raises(ImageError, match=reason):
        first.read()
    assert [item.read() for item in others] == list(PICTURES.values())[1:]


def _is_one_error(place: Path, damaged: bytes, reason: str) -> None:
    place.write_bytes(damaged)
    (item,) = (item for unit in sources.plan(str(place)) for item in unit.items())
    with pytest.raises(ImageError, match=reason):
        item.read()


def test_rows_without_an_image_say_so(tmp_path: Path) -> None:
    cells = [{"bytes": make.png(0), "path": None}, None, {"bytes": None, "path": "gone.png"}]
    pq.write_table(pa.table({"image": cells}), tmp_path / "p.parquet")
    (unit,) = sources.plan(str(tmp_path / "p.parquet"))
    first, second, third = unit.items()
    assert first.read() == make.png(0)
    with pytest.raises(ImageError, match="the row has no image"):
        second.read()
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        third.read()


@pytest.mark.parametrize(
    ("place", "column", "reason"),
    [
        ("memory://nowhere/at/all", None, "no such file, folder or bucket"),
        ("nonsense://bucket/a", None, "nonsense"),
        ("absent", None, "no such file"),
        ("empty", None, "no images here"),
        ("p.parquet", "picture", "has no column 'picture'; |has no column 'picture'"),
        ("p.parquet", None, "images in content, image"),
        ("text.parquet", None, "holds no column of images"),
        ("broken.parquet", "image", "cannot be read"),
        ("unsaved", None, "cannot be read as a saved data set"),
    ],
)
def test_what_is_no_source_is_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, column: str | None, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    make.parquet(Path("p.parquet"), PICTURES)
    pq.write_table(pa.table({"text": ["a"]}), "text.parquet")
    Path("broken.parquet").write_bytes(b"PAR1 and then nothing")
    Path("unsaved").mkdir()
    for name in ("state.json", "dataset_info.json"):
        Path("unsaved", name).write_text("{")
    with pytest.raises(DataError, match=reason) as caught:
        sources.plan(place, column=column)
    assert caught.value.remedy
    assert caught.value.path == place


def test_an_address_that_vanishes_or_is_refused_costs_its_row(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = fsspec.filesystem("memory")
    for name, data in make.pngs(2).items():
        fs.pipe_file(f"/bucket/{name}", data)
    items = [item for unit in sources.plan(memory) for item in unit.items()]
    fs.rm("/bucket/000.png")
    with pytest.raises(ImageError, match=r"memory://.*000\.png: no such file"):
        items[0].read()
    assert items[1].read() == make.png(1)

    def refuse(*arguments: object, **options: object) -> bytes:
        raise PermissionError("signature does not match")

    monkeypatch.setattr(type(fs), "cat_file", refuse)
    with pytest.raises(ImageError, match="access refused: signature does not match"):
        items[1].read()


def test_a_store_whose_package_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(place: str) -> object:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(DataError, match="Install s3fs to access S3"):
        sources.plan("s3://bucket")
    with pytest.raises(ImageError, match="Install s3fs to access S3"):
        sources.read_bytes("s3://bucket/a.png")


def test_a_saved_data_set_of_several_splits_gives_them_all(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for split in ("train", "test"):
        make.saved_dataset(root / split, PICTURES)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    assert [data for _, data in read(sources.plan(str(root)))] == 2 * list(PICTURES.values())
