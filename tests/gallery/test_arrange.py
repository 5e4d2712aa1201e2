"""Files are copied, moved back, rated; nothing is deleted, overwritten or taken from a person."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ma_agiqa.errors import DataError, OutputError
from ma_agiqa.gallery import arrange
from ma_agiqa.gallery.arrange import Step, carry_out, plan, stars, undo, write_rating
from ma_agiqa.types import Row
from support.encoding import encoded

PIXELS = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Three files of different content, two of one name."""
    paths = [tmp_path / "a" / "one.png", tmp_path / "b" / "one.png", tmp_path / "b" / "two.png"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(str(path).encode())
    return paths


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != arrange.RECORD}


@pytest.mark.parametrize("move", [False, True])
def test_names_that_clash_are_kept_apart_and_moves_come_back(
    three: list[Path], tmp_path: Path, move: bool
) -> None:
    before = {path: path.read_bytes() for path in three}
    out = tmp_path / "out"
    out.mkdir()
    (out / "two.png").write_bytes(b"was here first")
    steps = plan(map(str, three), out)
    assert [step.target.name for step in steps] == ["one.png", "one-2.png", "two-2.png"]
    assert list(carry_out(steps, out, move=move)) == steps
    assert content(out) == {
        "one.png": before[three[0]],
        "one-2.png": before[three[1]],
        "two-2.png": before[three[2]],
        "two.png": b"was here first",
    }
    assert all(path.exists() != move for path in three)
    done, left = undo(out / arrange.RECORD)
    assert (len(done), left) == (3 * move, [])
    assert {path: path.read_bytes() for path in three} == before


def test_undo_leaves_what_is_in_the_way_or_gone(three: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    list(carry_out(plan(map(str, three), out), out, move=True))
    three[0].write_bytes(b"new")
    (out / "one-2.png").unlink()
    done, left = undo(out / arrange.RECORD)
    assert [step.target for step in done] == [three[2]]
    assert {step.target for step in left} == set(three[:2])
    assert three[0].read_bytes() == b"new"
    assert (out / "one.png").exists()


def test_a_file_already_there_stays(three: list[Path]) -> None:
    assert plan(map(str, three), three[1].parent) == [Step(three[0], three[1].with_stem("one-2"))]


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    three: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    steps = plan(map(str, three), out)
    out.mkdir()
    (out / "one-2.png").write_bytes(b"somebody's")
    with pytest.raises(OutputError, match=r"has appeared there.*undo\.jsonl"):
        list(carry_out(steps, out, move=True))
    assert (out / "one-2.png").read_bytes() == b"somebody's"
    assert not three[0].exists()  # done before
    assert three[1].exists()


@pytest.mark.parametrize("text", [None, "nonsense", "[]", '{"moved": 1, "to": 2}'])
def test_a_record_that_is_none_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "undo.jsonl").write_text(text)
    with pytest.raises(DataError, match="no record of moved files"):
        undo(tmp_path / "undo.jsonl")


def test_stars_are_fifths_of_the_percentile() -> None:
    assert [stars(p) for p in (0, 20, 20.1, 50, 80, 80.1, 100)] == [1, 1, 2, 3, 4, 5, 5]


def rated(path: Path) -> str | None:
    root = ElementTree.fromstring(path.read_text())
    return next(root.iter(arrange._DESCRIPTION)).get(arrange._RATING)


def row(path: Path, percentile: float | None = 70.0) -> Row:
    return {"path": str(path), "score": 3.25, "percentile": percentile}


def test_a_rating_goes_into_sidecars_of_both_names_and_may_be_renewed(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(PIXELS, "JPEG"))
    before = path.read_bytes()
    assert write_rating(row(path), arrange.SCHEMES) is None
    assert rated(tmp_path / "a.xmp") == rated(tmp_path / "a.jpg.xmp") == "4"
    assert write_rating(row(path, 10.0), arrange.SCHEMES) is None  # ours: scored again
    assert rated(tmp_path / "a.xmp") == rated(tmp_path / "a.jpg.xmp") == "1"
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "a.jpg.xmp", "a.xmp"]


SIDECAR = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:darktable="http://darktable.sf.net/" {attributes}
 darktable:history_end="3">{elements}</rdf:Description></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize(
    ("attributes", "elements"),
    [('xmp:Rating="2"', ""), ("", "<xmp:Rating>2</xmp:Rating>"), ('xmp:Rating="-1"', "")],
)
def test_a_persons_rating_in_a_sidecar_stays(
    tmp_path: Path, attributes: str, elements: str
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(PIXELS, "JPEG"))
    theirs = SIDECAR.format(attributes=attributes, elements=elements)
    (tmp_path / "a.jpg.xmp").write_text(theirs)
    reason = write_rating(row(path), arrange.SCHEMES)
    assert reason == "a.jpg.xmp holds a rating of somebody's own"
    assert (tmp_path / "a.jpg.xmp").read_text() == theirs
    assert not (tmp_path / "a.xmp").exists()


def test_a_rating_changed_after_ours_is_a_persons(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(PIXELS, "JPEG"))
    write_rating(row(path), ["adobe"])
    sidecar = tmp_path / "a.xmp"
    sidecar.write_text(sidecar.read_text().replace('xmp:Rating="4"', 'xmp:Rating="5"'))
    assert "somebody's own" in str(write_rating(row(path), ["adobe"]))
    assert rated(sidecar) == "5"


@pytest.mark.parametrize("rating", ['xmp:Rating="0"', ""])
def test_what_else_a_sidecar_holds_is_kept(tmp_path: Path, rating: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(PIXELS, "JPEG"))
    sidecar = tmp_path / "a.jpg.xmp"
    sidecar.write_text(SIDECAR.format(attributes=rating, elements=""))
    assert write_rating(row(path), ["darktable"]) is None
    assert rated(sidecar) == "4"
    assert 'darktable:history_end="3"' in sidecar.read_text()


@pytest.mark.parametrize("text", ["not XML", "<a/>", "<!DOCTYPE a><a/>"])
def test_a_sidecar_that_cannot_be_read_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(PIXELS, "JPEG"))
    (tmp_path / "a.xmp").write_text(text)
    assert "a.xmp cannot be read" in str(write_rating(row(path), arrange.SCHEMES))
    assert (tmp_path / "a.xmp").read_text() == text


def test_a_rating_inside_the_picture_stays(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x4746] = 3
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(PIXELS, "JPEG", exif=exif))
    assert write_rating(row(path), ["adobe"]) == "its file holds a rating"
    packet = SIDECAR.format(attributes='xmp:Rating="3"', elements="").encode()
    path.write_bytes(encoded(PIXELS, "WEBP", xmp=packet))
    assert write_rating(row(path), ["adobe"]) == "its file holds a rating"
    assert [p.name for p in tmp_path.iterdir()] == ["a.jpg"]


def test_without_a_percentile_there_are_no_stars(tmp_path: Path) -> None:
    assert write_rating(row(tmp_path / "a.jpg", None), ["adobe"]) == "has no percentile"


def test_what_was_undone_leaves_the_record(three: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        list(carry_out(plan(map(str, three), out), out, move=True))
        done, left = undo(out / arrange.RECORD)
        assert (len(done), left) == (3, [])
    list(carry_out(plan(map(str, three), out), out, move=True))
    three[0].parent.rmdir()
    three[0].parent.write_bytes(b"no folder any more")
    done, left = undo(out / arrange.RECORD)
    assert [step.target for step in left] == [three[0]]
    three[0].parent.unlink()
    assert [step.target for step in undo(out / arrange.RECORD)[0]] == [three[0]]


def test_a_picture_that_is_named_twice_goes_once(three: list[Path], tmp_path: Path) -> None:
    steps = plan([str(three[0]), str(three[0])], tmp_path / "out")
    assert [step.source for step in steps] == [three[0]]


def test_a_place_that_is_a_file_is_said_before_anything_is_done(three: list[Path]) -> None:
    with pytest.raises(OutputError, match="choose another folder"):
        list(carry_out([Step(three[0], three[1] / "one.png")], three[1], move=True))
