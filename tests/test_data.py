"""Tables, registry and verification: what is read, and what each kind of damage says."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from ma_agiqa.data import registry
from ma_agiqa.data.layouts import load_spec
from ma_agiqa.data.readers import read_table
from ma_agiqa.data.registry import DATASETS
from ma_agiqa.data.samples import Samples, load_table, require_images
from ma_agiqa.data.spec import DatasetSpec, Images
from ma_agiqa.data.verify import VerifyReport, verify
from ma_agiqa.errors import DataError, UsageError

HEADER = "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align"
ROWS = [
    'AttnGAN_normal_000.jpg,"a cat, asleep",,,,1.5,0.2,2.5,0.3',
    "sd1.5_lowstep_001.jpg,007,,,,3.25,0.2,0,0.3",
    "xl2.2_normal_002.jpg,a dog,,,,5,0.2,4.5,0",
]


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(path: Path) -> Samples:
    return load_table(path, root=path.parent, image_column="image", score_column="score")


@pytest.fixture
def small(tmp_path: Path) -> tuple[DatasetSpec, Path]:
    """A data set of three records in the layout of AGIQA-3K, and its root."""
    text = "\r\n".join([HEADER, *ROWS]) + "\r\n"
    write(tmp_path, text, "data.csv")
    (tmp_path / "images").mkdir()
    for row in ROWS:
        Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / row.split(",")[0])
    digest = hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()
    spec = dataclasses.replace(
        DATASETS["agiqa-3k"],
        records=3,
        checksums={"data.csv": digest},
        images=(Images("images/{name}", size=(8, 8)),),
    )
    return spec, tmp_path


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_csv_is_read_whatever_its_line_ends_and_mark(
    tmp_path: Path, line_end: str, mark: bytes
) -> None:
    lines = ["image,score,prompt", '"a, b.png",2.5,007', '007,-1e0,"two\nlines"']
    samples = load_table(
        write(tmp_path, mark + line_end.join(lines).encode()),
        root=tmp_path,
        image_column="image",
        score_column="score",
        group_columns={"prompt": "prompt"},
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
        ("", "cannot be read as a table: Empty CSV file"),
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
    with pytest.raises(DataError, match=r"row 2 \(b\): None"):
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


def test_a_subset_keeps_every_column_in_step(small: tuple[DatasetSpec, Path]) -> None:
    samples = load_spec(*small)
    part = samples.subset([2, 0])
    assert part.name == ("xl2.2_normal_002.jpg", "AttnGAN_normal_000.jpg")
    assert [path.name for path in part.path] == list(part.name)
    assert part.target("alignment").tolist() == [4.5, 2.5]
    assert part.groups["prompt"] == ("a dog", "a cat, asleep")


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(DataError, match="'quality': 1"):
        Samples(("a", "b"), (Path("a"), Path("b")), {"quality": np.ones(1)}, {}, "mine")


def test_an_unknown_target_lists_the_known_ones(small: tuple[DatasetSpec, Path]) -> None:
    with pytest.raises(UsageError, match="quality, alignment; did you mean quality"):
        load_spec(*small).target("qualty")


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry_of_the_registry_is_complete(name: str) -> None:
    spec = DATASETS[name]
    assert registry.get(name) is spec
    assert spec.name == name
    assert spec.scale.low < spec.scale.high
    assert spec.targets
    assert spec.licence
    assert spec.citation
    assert spec.unpack
    assert "paper" in spec.splits
    assert all(address.startswith("https://") for address in spec.download)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in spec.checksums.values())


@pytest.mark.parametrize("name", ["AGIQA-3K", "agiqa3k"])
def test_an_unknown_data_set_lists_close_names(tmp_path: Path, name: str) -> None:
    for ask in (registry.get, lambda name: registry.load(name, tmp_path)):
        with pytest.raises(UsageError, match="did you mean agiqa-3k"):
            ask(name)


def test_names_tell_generator_and_setting(small: tuple[DatasetSpec, Path]) -> None:
    samples = load_spec(*small)
    assert samples.groups["generator"] == ("AttnGAN", "sd1.5", "xl2.2")
    assert samples.groups["setting"] == ("normal", "lowstep", "normal")
    assert samples.groups["prompt"] == ("a cat, asleep", "007", "a dog")
    assert list(samples.targets) == ["quality", "alignment"]


def test_foreign_names_are_refused(small: tuple[DatasetSpec, Path]) -> None:
    spec, root = small
    write(root, f"{HEADER}\nholiday.jpg,a dog,,,,5,0.2,4.5,0\n", "data.csv")
    with pytest.raises(DataError, match=r"1 names are not of the form .*: holiday.jpg"):
        load_spec(spec, root)


def test_a_missing_annotation_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"annotations of AGIQA-3K .* data.csv .*github.com/lcysyzxdxc"
    ):
        registry.load("agiqa-3k", tmp_path)


def test_agiqa_3k_is_read_whole(agiqa_3k: Path) -> None:
    spec = registry.get("agiqa-3k")
    samples = registry.load("agiqa-3k", agiqa_3k)
    assert len(samples) == spec.records
    require_images(samples)
    assert samples.name[0] == "AttnGAN_normal_000.jpg"
    assert samples.target("quality")[0] == 0.965602553  # as written in the file
    assert samples.target("alignment")[0] == 0.40889324
    assert len(set(samples.groups["prompt"])) == 300
    assert samples.groups["generator"].count("midjourney") == 2 * 296
    assert set(samples.groups["setting"]) == {"normal", "lowstep", "highcorr", "lowcorr"}
    text = (agiqa_3k / "data.csv").read_bytes().replace(b"\r\n", b"\n")
    assert hashlib.sha256(text).hexdigest() == spec.checksums["data.csv"]


def only_problem(report: VerifyReport) -> str:
    assert not report.ok
    assert len(report.problems) == 1
    assert report.problems[0].remedy
    return f"{report.problems[0].file}: {report.problems[0].reason}"


def test_a_sound_data_set_verifies(small: tuple[DatasetSpec, Path]) -> None:
    seen: list[int] = []
    report = verify(*small, on_image=lambda: seen.append(1))
    assert report.ok
    assert (report.records, report.sound, report.missing, report.damaged) == (3, 3, 0, 0)
    assert len(seen) == 3


def test_agiqa_3k_verifies(agiqa_3k: Path) -> None:
    report = verify(registry.get("agiqa-3k"), agiqa_3k)
    assert report.problems == ()
    assert report.sound == report.records == report.expected == 2982


def test_other_line_ends_are_the_same_file(small: tuple[DatasetSpec, Path]) -> None:
    spec, root = small
    annotations = root / "data.csv"
    annotations.write_bytes(annotations.read_bytes().replace(b"\r\n", b"\n"))
    assert verify(spec, root).ok


def test_a_missing_annotation_file_is_a_problem(small: tuple[DatasetSpec, Path]) -> None:
    spec, root = small
    (root / "data.csv").unlink()
    assert "the annotations of AGIQA-3K are not there; looked for data.csv" in only_problem(
        verify(spec, root)
    )


def test_a_missing_image_is_a_problem(small: tuple[DatasetSpec, Path]) -> None:
    spec, root = small
    (root / "images" / "sd1.5_lowstep_001.jpg").unlink()
    report = verify(spec, root)
    assert only_problem(report).endswith("1 of 3 images missing: sd1.5_lowstep_001.jpg")
    assert (report.missing, report.sound) == (1, 2)


@pytest.mark.parametrize("keep", [0, 40, 400])
def test_an_image_cut_short_is_a_problem(small: tuple[DatasetSpec, Path], keep: int) -> None:
    spec, root = small
    path = root / "images" / "xl2.2_normal_002.jpg"
    path.write_bytes(path.read_bytes()[:keep])
    report = verify(spec, root)
    assert "xl2.2_normal_002.jpg" in only_problem(report)
    assert (report.damaged, report.sound) == (1, 2)


def test_an_unknown_image_is_a_problem_and_other_files_are_not(
    small: tuple[DatasetSpec, Path],
) -> None:
    spec, root = small
    Image.new("RGB", (8, 8)).save(root / "images" / "mine.png")
    (root / "images" / ".DS_Store").touch()
    (root / "images" / "Thumbs.db").touch()
    report = verify(spec, root)
    assert "1 images that no record names: mine.png" in only_problem(report)
    assert report.extra == 1


def test_an_edited_annotation_file_is_a_problem(small: tuple[DatasetSpec, Path]) -> None:
    spec, root = small
    annotations = root / "data.csv"
    annotations.write_bytes(annotations.read_bytes().replace(b"3.25", b"3.75"))
    assert "not the annotation file as distributed" in only_problem(verify(spec, root))


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (b"3.25", b"5.5", r"1 quality scores outside 0 to 5: sd1.5_lowstep_001.jpg \(5.5\)"),
        (b"3.25,0.2", b"3.25,-0.2", "negative standard deviations in 'std_quality'"),
        (b"3.25,0.2", b"3.25,x", "1 of 3 values of 'std_quality' are no finite numbers"),
        (b"3.25", b"nan", "1 of 3 values of 'mos_quality' are no finite numbers"),
        (b"xl2.2_normal_002", b"AttnGAN_normal_000", "occur more than once"),
        (ROWS[2].encode() + b"\r\n", b"", "2 records, expected 3"),
    ],
)
def test_an_inconsistent_annotation_file_is_a_problem(
    small: tuple[DatasetSpec, Path], before: bytes, after: bytes, reason: str
) -> None:
    spec, root = small
    annotations = root / "data.csv"
    assert before in annotations.read_bytes()
    annotations.write_bytes(annotations.read_bytes().replace(before, after))
    reasons = "; ".join(problem.reason for problem in verify(spec, root).problems)
    assert re.search(reason, reasons), reasons
