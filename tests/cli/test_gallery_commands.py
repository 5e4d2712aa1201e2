"""`explain`, `gallery`, `sort`, and what `score` does with its own result files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ma_agiqa.types import ROW_KEYS, TABLE_KEYS
from support.command_line import MAIN, rows_of, run, score


def page_of(path: Path) -> dict[str, object]:
    text = path.read_text()
    found = re.search(r'<script id="rows" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    page: dict[str, object] = json.loads(found[1])
    return page


def lines_of(path: Path) -> list[str]:
    """Return the lines of thumbnails and maps."""
    chunks = re.findall(
        r'<script id="c\d+" type="text/plain">\n(.*?)</script>', path.read_text(), 16
    )
    return [line for chunk in chunks for line in chunk.splitlines()]


def with_prompt(path: Path, prompt: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", f"{prompt}\nSteps: 5, Seed: 42")
    Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save(path, pnginfo=info)


# Result files


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_result_file_is_not_scored_again(
    pictures: Path, tiny_compact: Path, tmp_path: Path, suffix: str
) -> None:
    (pictures / "bad.png").write_bytes(b"no image")
    results = tmp_path / f"scores{suffix}"
    made = score(str(pictures), "--output", results, "--format", "jsonl", model=tiny_compact)
    whole = rows_of(made.stdout)
    if suffix != ".jsonl":
        whole = [{key: row[key] for key in TABLE_KEYS} for row in whole]
    for path in pictures.rglob("*.png"):
        path.unlink()
    again = run("score", results, "--format", "jsonl")
    assert again.exit_code == 1  # of the failed row
    assert rows_of(again.stdout) == whole
    worst = rows_of(run("score", results, "--worst", 2, "--format", "jsonl").stdout)
    best = rows_of(run("score", results, "--top", 2, "--format", "jsonl").stdout)
    order = sorted((r for r in whole if r["error"] is None), key=lambda r: r["score"])  # type: ignore[arg-type,return-value]
    assert worst == order[:2]
    assert best == order[:-3:-1]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_path_with_a_line_separator_is_read_again(
    tiny_compact: Path, tmp_path: Path, suffix: str
) -> None:
    picture = tmp_path / "a\u2028b.png"
    Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save(picture)
    results = tmp_path / f"scores{suffix}"
    made = score(str(picture), "--output", results, "--format", "jsonl", model=tiny_compact)
    again = run("score", results, "--format", "jsonl")
    assert again.exit_code == 0, again.stderr
    kept = ROW_KEYS if suffix == ".jsonl" else TABLE_KEYS
    assert json.loads(again.stdout) == {key: json.loads(made.stdout)[key] for key in kept}
    assert json.loads(again.stdout)["path"] == str(picture)


def test_worst_gives_the_worst_of_pictures(pictures: Path, tiny_compact: Path) -> None:
    whole = rows_of(score(str(pictures), model=tiny_compact).stdout)
    worst = rows_of(score(str(pictures), "--worst", 1, model=tiny_compact).stdout)
    assert worst == [min(whole, key=lambda row: row["score"])]  # type: ignore[arg-type,return-value]
    both = score(str(pictures), "--worst", 1, "--top", 1, model=tiny_compact)
    assert both.exit_code == 2
    assert "exclude each other" in both.stderr


def test_metadata_become_columns_also_of_rows_that_are_reused(
    tiny_compact: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        with_prompt(tmp_path / f"{name}.png", f"a {name} tree")
    out = tmp_path / "scores.jsonl"
    # A journal of an earlier run that did not finish.
    (tmp_path / "c.png").write_bytes(b"")
    words = [str(tmp_path / f"{name}.png") for name in "abc"]
    result = score(*words, "--output", out, "--metadata", model=tiny_compact)
    assert result.exit_code == 1, result.stderr
    rows = rows_of(out.read_text())
    assert [row["prompt"] for row in rows] == ["a a tree", "a b tree", None]
    assert [row["seed"] for row in rows] == ["42", "42", None]


# explain


def test_explain_draws_one_picture_for_each_image(
    pictures: Path, tiny_compact: Path, tmp_path: Path
) -> None:
    (pictures / "below" / "a.png").write_bytes((pictures / "a.png").read_bytes())
    (pictures / "bad.png").write_bytes(b"no image")
    result = run("explain", pictures, "--out", tmp_path / "why", "--model", tiny_compact)
    assert result.exit_code == 1
    assert "bad.png: is not an image" in result.stderr
    drawn = sorted(path.name for path in (tmp_path / "why").iterdir())
    assert drawn == ["a-2.png", "a.png", "b.png", "c.png", "d.png", "e.png"]
    with Image.open(tmp_path / "why" / "a.png") as one:
        assert one.width >= 560


# gallery


def test_a_gallery_holds_every_picture_and_nothing_of_the_network(
    pictures: Path, tiny_compact: Path, tmp_path: Path
) -> None:
    with_prompt(pictures / "z.png", "</script><script>alert(1)</script>")
    (pictures / "bad.png").write_bytes(b"no image")
    out = tmp_path / "new" / "gallery.html"
    result = run("gallery", pictures, "--out", out, "--model", tiny_compact)
    assert result.exit_code == 1, result.stderr
    assert [path.name for path in out.parent.iterdir()] == ["gallery.html"]
    page = page_of(out)
    rows = page["rows"]
    assert isinstance(rows, list)
    scored = {Path(row["path"]).name: row for row in rows}
    assert len(rows) == 7
    assert scored["bad.png"]["error"].startswith("is not an image")
    assert scored["z.png"]["generation"]["prompt"] == "</script><script>alert(1)</script>"
    assert scored["a.png"]["href"] == "../pictures/a.png"
    assert set(scored["a.png"]["contributions"]) == {"content", "distortion", "bias"}
    lines = lines_of(out)
    assert len(lines) == 7
    assert sum(line == "- -" for line in lines) == 1
    assert out.read_text().count("<script") == 4  # rows, the program, one chunk, its end
    assert not re.search(r"(src|href)=[\"']?https?:|url\(|@import|fetch\(", out.read_text())


def test_a_gallery_that_was_killed_goes_on(
    pictures: Path, tiny_compact: Path, tmp_path: Path
) -> None:
    out = tmp_path / "gallery.html"
    for number in range(60):
        Image.fromarray(np.full((64, 64, 3), number, np.uint8)).save(pictures / f"n{number}.png")
    words = ["gallery", str(pictures), "--out", str(out), "--model", str(tiny_compact), "-q"]
    child = subprocess.Popen([*MAIN, *words])
    partial = out.with_name("gallery.html.partial")
    while child.poll() is None and not (partial.exists() and partial.stat().st_size > 5_000):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = partial.read_bytes().count(b'"check"') if partial.exists() else 0
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    assert len(lines_of(out)) == 65
    assert not partial.exists()
    assert kept > 0 or child.returncode == 0


def test_a_gallery_of_a_result_file(pictures: Path, tiny_compact: Path, tmp_path: Path) -> None:
    results, out = tmp_path / "scores.csv", tmp_path / "gallery.html"
    score(str(pictures), "--output", results, model=tiny_compact)
    (pictures / "d.bmp").unlink()
    result = run("gallery", results, "--out", out)
    assert result.exit_code == 1
    assert "d.bmp: no such file" in result.stderr
    lines = lines_of(out)
    assert len(lines) == 5
    assert all(line.endswith(" -") for line in lines)
    assert sum(line == "- -" for line in lines) == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["PICTURES", "--out", "x.txt"], "is an HTML file"),
        (["EMPTY", "--out", "OUT/x.html"], "no images found"),
        (["EMPTY/scores.csv", "PICTURES", "--out", "OUT/x.html"], "shown alone"),
        (["PICTURES", "--out", "PICTURES/a.png/x.html"], "folder cannot be made"),
    ],
)
def test_wrong_use_of_gallery(
    pictures: Path, tiny_compact: Path, tmp_path: Path, words: list[str], reason: str
) -> None:
    (tmp_path / "empty").mkdir()
    header = "path,score,percentile,low,high,model,error,hint\n"
    (tmp_path / "empty" / "scores.csv").write_text(header)
    names = {"PICTURES": pictures, "EMPTY": tmp_path / "empty", "OUT": tmp_path}
    for name, place in names.items():
        words = [word.replace(name, str(place)) for word in words]
    result = run("gallery", *words, "--model", tiny_compact)
    assert result.exit_code == 2, result.output
    assert reason in result.stderr


# sort


@pytest.fixture
def results(pictures: Path, tiny_compact: Path, tmp_path: Path) -> Path:
    made = tmp_path / "scores.csv"
    score(str(pictures), "--output", made, model=tiny_compact)
    return made


def test_sort_shows_what_it_would_do_and_does_it_when_told(results: Path, tmp_path: Path) -> None:
    best = rows_of(run("score", results, "--top", 2, "--format", "jsonl").stdout)
    shown = run("sort", results, "--best", 2, "--to", tmp_path / "best")
    assert shown.exit_code == 0
    assert shown.stderr.count("copy ") == 2
    assert "nothing was done" in shown.stderr
    assert not (tmp_path / "best").exists()
    done = run("sort", results, "--best", 2, "--to", tmp_path / "best", "--yes")
    assert done.exit_code == 0, done.stderr
    found = {path.name for path in (tmp_path / "best").iterdir()}
    assert found == {*(Path(str(row["path"])).name for row in best), "undo.jsonl"}


def test_moved_pictures_come_back(results: Path, pictures: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in pictures.rglob("*") if path.is_file()}
    poor = tmp_path / "poor"
    done = run("sort", results, "--below", 100, "--to", poor, "--move", "-y")
    assert "5 moved" in done.stderr
    assert len(list(poor.iterdir())) == 6
    back = run("sort", "--undo", poor / "undo.jsonl")
    assert back.exit_code == 0
    assert "5 moved back, 0 could not be: none" in back.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_ratings_are_written_beside_pictures(pictures: Path, tiny_compact: Path) -> None:
    result = run(
        "sort",
        pictures,
        "--write-rating",
        "both",
        "--yes",
        "--model",
        tiny_compact,
        "--device",
        "cpu",
    )
    assert result.exit_code == 0, result.stderr
    assert (pictures / "b.xmp").exists()
    assert (pictures / "b.jpg.xmp").exists()
    assert "5 rated, 0 left alone" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["RESULTS"],
        ["RESULTS", "--best", "1"],
        ["RESULTS", "--to", "x"],
        ["RESULTS", "--best", "1", "--worst", "1", "--to", "x"],
        ["RESULTS", "--write-rating", "paper"],
        ["--undo", "nowhere.jsonl"],
    ],
)
def test_wrong_use_of_sort(results: Path, words: list[str]) -> None:
    result = run("sort", *(word.replace("RESULTS", str(results)) for word in words))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert not os.path.exists("x")


def test_explain_replaces_its_own_drawings_and_nothing_else(
    pictures: Path, tiny_compact: Path
) -> None:
    picture = pictures / "a.png"
    before = picture.read_bytes()
    words = ("explain", picture, "--out", pictures, "--model", tiny_compact)
    for _ in range(2):
        assert run(*words).exit_code == 0
    assert picture.read_bytes() == before
    assert (pictures / "a-2.png").exists()
    assert not (pictures / "a-3.png").exists()


def test_pictures_that_are_moved_are_rated_where_they_are_then(
    results: Path, tmp_path: Path
) -> None:
    words = ("sort", results, "--best", 1, "--to", tmp_path / "best", "--move")
    done = run(*words, "--write-rating", "adobe", "--yes")
    assert done.exit_code == 0, done.stderr
    assert len(list((tmp_path / "best").glob("*.xmp"))) == 1


def test_failed_rows_of_a_result_file_count_in_its_gallery(
    pictures: Path, tiny_compact: Path, tmp_path: Path
) -> None:
    (pictures / "bad.png").write_bytes(b"no image")
    results = tmp_path / "scores.jsonl"
    score(str(pictures), "--output", results, model=tiny_compact)
    done = run("gallery", results, "--out", tmp_path / "g.html")
    assert "1 failed" in done.stderr
    assert done.exit_code == 1


SOUND = {
    **dict.fromkeys(TABLE_KEYS),
    "path": "x",
    "score": 2.0,
    "percentile": 40.0,
    "low": 0.0,
    "high": 5.0,
    "model": "m",
}


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        '{"path": "x"}',
        json.dumps({**SOUND, "score": "2"}),
        json.dumps({**SOUND, "score": float("nan")}),
        json.dumps({**SOUND, "score": None}),
        json.dumps({**SOUND, "error": "is empty"}),
        json.dumps({**SOUND, "path": 3}),
    ],
)
def test_a_row_that_is_none_of_results_is_one_line(tmp_path: Path, line: str) -> None:
    results = tmp_path / "scores.jsonl"
    results.write_text(json.dumps(SOUND) + "\n")
    assert run("score", results).exit_code == 0
    results.write_text(json.dumps(SOUND) + "\n" + line + "\n")
    for words in (["score"], ["score", "--format", "table"], ["sort", "--best", 1, "--to", "b"]):
        done = run(words[0], results, *words[1:])
        assert done.exit_code == 2
        assert done.stderr.count("\n") == 1
        assert "cannot be read as results" in done.stderr


def test_options_that_mean_nothing_for_a_result_file_are_refused(tmp_path: Path) -> None:
    results = tmp_path / "scores.jsonl"
    results.write_text(json.dumps(SOUND) + "\n")
    for words in (["--shard", "1/3"], ["--metadata"], ["--prompt", "a fox"]):
        done = run("score", results, *words)
        assert done.exit_code == 2
        assert "not scored again" in done.stderr


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_texts_that_no_format_likes_survive(
    tiny_compact: Path, tmp_path: Path, suffix: str
) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", json.dumps({"prompt": "a fox\ron a hill \ud83e"}))
    picture, results = tmp_path / "fox.png", tmp_path / f"scores{suffix}"
    Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save(picture, pnginfo=info)
    made = score(str(picture), "--metadata", "--output", results, model=tiny_compact)
    assert made.exit_code == 0, made.stderr
    again = rows_of(run("score", results, "--format", "jsonl").stdout)
    assert [row["path"] for row in again] == [str(picture)]
    assert str(again[0]["prompt"]).startswith("a fox\ron a hill")
