"""The five data sets: the real annotation files, and every published form of them."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from ma_agiqa.data import registry
from ma_agiqa.data.layouts import load_spec, read_annotations
from ma_agiqa.data.registry import DATASETS
from ma_agiqa.data.verify import verify
from ma_agiqa.errors import DataError

TRAIN_COUNTS = {
    **dict.fromkeys(["Dream", "Pixart", "Playground", "SD1.4", "SD1.5", "SDXL", "SSD1B"], 1400),
    **dict.fromkeys(["LCM_Pixart", "LCM_SD1.5", "LCM_SDXL", "SDXL_Turbo"], 700),
    **dict.fromkeys(["DALLE2", "DALLE3", "IF", "MJ"], 350),
}
"""Images for each generator in the training part of AIGIQA-20K, as published."""

SPAQ_FILE = "Annotations/MOS and Image attribute scores.xlsx"
SPAQ_ATTRIBUTES = ["Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_sheet(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    for row in [header, *rows]:
        book.active.append(row)
    book.save(path)
    return path


WRITERS = {"csv": write_csv, "xlsx": write_sheet}


def small_20k(root: Path, kind: str, *, scored: bool = True) -> None:
    """Write three annotation files of AIGIQA-20K with 3, 1 and 2 records."""
    for part, numbers in (("train", [0, 1, 2]), ("val", [3]), ("test", [4, 5])):
        has_scores = scored or part == "train"
        header = ["name", "prompt", "mos"] if has_scores else ["name", "prompt"]
        rows: list[list[object]] = [
            [f"LCM_SD1.5_{i:04d}.png", f"prompt {i}", i / 2][: len(header)] for i in numbers
        ]
        WRITERS[kind](root / f"info_{part}.{kind}", header, rows)


def test_the_training_file_of_aigiqa_20k_is_read_as_published(datasets: Path) -> None:
    samples = registry.load("aigiqa-20k", datasets / "aigiqa-20k")
    assert len(samples) == 14000
    assert samples.name[0] == "DALLE2_0000.png"
    assert samples.target()[0] == 3.6638868235  # as written in the file
    assert samples.path[0] == datasets / "aigiqa-20k/train/DALLE2_0000.png"
    assert Counter(samples.groups["generator"]) == TRAIN_COUNTS
    assert len(set(samples.groups["prompt"])) == 13624
    assert set(samples.official_set or ()) == {"training"}


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_three_files_of_aigiqa_20k_follow_one_another(tmp_path: Path, kind: str) -> None:
    small_20k(tmp_path, kind)
    samples = registry.load("aigiqa-20k", tmp_path)
    assert samples.official_set == ("training",) * 3 + ("validation",) + ("test",) * 2
    assert samples.target().tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert set(samples.groups["generator"]) == {"LCM_SD1.5"}
    folders = [path.relative_to(tmp_path).parts[0] for path in samples.path]
    assert folders == ["train"] * 3 + ["val"] + ["test"] * 2


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_files_without_scores_are_left_out_and_verify_tells(tmp_path: Path, kind: str) -> None:
    small_20k(tmp_path, kind, scored=False)
    assert len(registry.load("aigiqa-20k", tmp_path)) == 3
    reasons = [problem.reason for problem in verify(DATASETS["aigiqa-20k"], tmp_path).problems]
    assert reasons[0] == (
        "3 records, expected 20000; not there or without scores: info_val.csv, info_test.csv"
    )


def test_scores_added_as_csv_count_more_than_a_sheet_without(tmp_path: Path) -> None:
    small_20k(tmp_path, "xlsx", scored=False)
    rows: list[list[object]] = [["LCM_SD1.5_0003.png", "prompt 3", 4.5]]
    write_csv(tmp_path / "info_val.csv", ["name", "prompt", "mos"], rows)
    samples = registry.load("aigiqa-20k", tmp_path)
    assert samples.target().tolist() == [0, 0.5, 1, 4.5]


def test_a_score_missing_among_others_is_an_error_with_its_name(tmp_path: Path) -> None:
    small_20k(tmp_path, "csv")
    rows: list[list[object]] = [["LCM_SD1.5_0004.png", "a", ""], ["LCM_SD1.5_0005.png", "b", 1]]
    write_csv(tmp_path / "info_test.csv", ["name", "prompt", "mos"], rows)
    with pytest.raises(DataError, match=r"1 of 6 values of 'mos' .*LCM_SD1\.5_0004\.png"):
        registry.load("aigiqa-20k", tmp_path)


@pytest.mark.parametrize("folder", ["{part}", "images", "all"])
def test_images_are_found_where_most_of_them_lie(tmp_path: Path, folder: str) -> None:
    small_20k(tmp_path, "csv")
    for part, number in (("train", 2), ("test", 4)):
        place = tmp_path / folder.format(part=part)
        place.mkdir(exist_ok=True)
        (place / f"LCM_SD1.5_{number:04d}.png").touch()
    paths = registry.load("aigiqa-20k", tmp_path).path
    assert [path.is_file() for path in paths] == [False, False, True, False, True, False]


def test_the_csv_of_aigciqa2023_is_read_as_published(datasets: Path) -> None:
    samples = registry.load("aigciqa2023", datasets / "aigciqa2023")
    assert len(samples) == 2400
    assert list(samples.targets) == ["quality", "authenticity", "correspondence"]
    first = [samples.target(name)[0] for name in samples.targets]
    assert first == [60.16417843, 47.24654087, 59.98587335]
    assert Counter(Counter(samples.groups["prompt"]).values()) == {24: 100}
    assert set(Counter(samples.groups["generator"]).values()) == {400}
    assert samples.path[5] == datasets / "aigciqa2023/Image/allimg/5.png"


@pytest.fixture
def matlab_layout(datasets: Path, tmp_path: Path) -> Path:
    """AIGCIQA2023 as its archive has it: published sheets, scores of the CSV as MATLAB files."""
    source = datasets / "aigciqa2023"
    for name in ("pic-index.xlsx", "AIGCIQA2023_Prompts.xlsx"):
        shutil.copyfile(source / name, tmp_path / name)
    (tmp_path / "DATA" / "MOS").mkdir(parents=True)
    rows = rows_of(source / "AIGCIQA2023.csv")
    for number, name in enumerate(("quality", "authenticity", "correspondence"), start=1):
        scores = np.array([[float(row[f"{name}_mos"])] for row in rows])
        savemat(tmp_path / "DATA" / "MOS" / f"mosz{number}.mat", {"MOSz": scores})
    return tmp_path


def test_both_forms_of_aigciqa2023_are_the_same_records(
    datasets: Path, matlab_layout: Path
) -> None:
    one = registry.load("aigciqa2023", datasets / "aigciqa2023")
    other = registry.load("aigciqa2023", matlab_layout)
    assert one.name == other.name
    assert one.groups == other.groups
    for name in one.targets:
        np.testing.assert_array_equal(one.target(name), other.target(name))


def test_generators_by_number_are_those_of_the_published_index(matlab_layout: Path) -> None:
    samples = registry.load("aigciqa2023", matlab_layout)
    sheet = openpyxl.load_workbook(matlab_layout / "pic-index.xlsx").worksheets[0]
    folders = tuple(row[0] for row in sheet.iter_rows(values_only=True))
    assert samples.groups["generator"] == folders


def test_images_in_a_folder_for_each_generator_are_found_by_the_index(
    matlab_layout: Path,
) -> None:
    folder = matlab_layout / "Image" / "Lafite"
    folder.mkdir(parents=True)
    for copy in (1, 2, 3, 4):
        for prompt in range(100):
            (folder / f"{prompt:03d}-{copy}.png").touch()
    samples = registry.load("aigciqa2023", matlab_layout)
    found = [row for row, path in enumerate(samples.path) if path.is_file()]
    assert found == list(range(1200, 1600))
    assert samples.path[1205] == folder / "001-2.png"


def test_files_that_describe_different_numbers_of_records_are_an_error(
    matlab_layout: Path,
) -> None:
    path = matlab_layout / "DATA" / "MOS" / "mosz2.mat"
    savemat(path, {"MOSz": loadmat(path)["MOSz"][:2399]})
    with pytest.raises(DataError, match=r"mosz1.mat 2400, mosz2.mat 2399"):
        registry.load("aigciqa2023", matlab_layout)


def test_the_file_of_sets_of_koniq_10k_is_read_as_published(datasets: Path) -> None:
    samples = registry.load("koniq-10k", datasets / "koniq-10k")
    assert len(samples) == 10073
    assert samples.target()[0] == 77.3836206897
    assert Counter(samples.official_set) == {"training": 7058, "validation": 1000, "test": 2015}
    assert samples.photographs


def test_both_files_of_koniq_10k_give_the_same_scores(datasets: Path, tmp_path: Path) -> None:
    rows = rows_of(datasets / "koniq-10k" / "koniq10k_distributions_sets.csv")
    # The other file has the mean of the five categories in MOS and the scaled one beside it.
    header = ["image_name", "c1", "c2", "c3", "c4", "c5", "c_total", "MOS", "SD", "MOS_zscore"]
    other: list[list[object]] = [
        [row["image_name"], 0, 0, 25, 73, 7, 105, "3.82", row["SD"], row["MOS"]] for row in rows
    ]
    write_csv(tmp_path / "koniq10k_scores_and_distributions.csv", header, other)
    one = registry.load("koniq-10k", datasets / "koniq-10k")
    two = registry.load("koniq-10k", tmp_path)
    assert one.name == two.name
    np.testing.assert_array_equal(one.target(), two.target())
    assert two.official_set is None


def test_koniq_10k_at_half_size_says_so(datasets: Path, tmp_path: Path) -> None:
    name = "koniq10k_distributions_sets.csv"
    shutil.copyfile(datasets / "koniq-10k" / name, tmp_path / name)
    (tmp_path / "512x384").mkdir()
    (tmp_path / "512x384" / "10004473376.jpg").touch()
    samples = registry.load("koniq-10k", tmp_path)
    assert samples.caveats == ("images of 512 x 384, not 1024 x 768",)


def small_spaq(root: Path, kind: str = "xlsx", n: int = 4) -> None:
    """Write annotations of SPAQ with n records."""
    rows: list[list[object]] = [
        [f"{i:05d}.jpg", 10.5 * i, 10 + i, 20 + i, 30 + i, 40 + i, 50 + i] for i in range(1, n + 1)
    ]
    WRITERS[kind](
        root / SPAQ_FILE.replace("xlsx", kind), ["Image name", "MOS", *SPAQ_ATTRIBUTES], rows
    )


@pytest.mark.parametrize("kind", ["xlsx", "csv"])
def test_spaq_has_a_quality_and_five_attributes(tmp_path: Path, kind: str) -> None:
    small_spaq(tmp_path, kind)
    samples = registry.load("spaq", tmp_path)
    assert samples.name == ("00001.jpg", "00002.jpg", "00003.jpg", "00004.jpg")
    assert samples.target().tolist() == [10.5, 21, 31.5, 42]
    assert samples.target("sharpness").tolist() == [51, 52, 53, 54]
    assert samples.path[0] == tmp_path / "TestImage" / "00001.jpg"
    assert samples.photographs


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (100.5, r"1 quality scores outside 0 to 100: 00002.jpg \(100.5\)"),
        ("nan", r"1 of 4 values of 'MOS' .*row 2 \(00002.jpg\): 'nan'"),
        ("n/a", r"1 of 4 values of 'MOS' .*row 2 \(00002.jpg\): 'n/a'"),
    ],
)
def test_a_score_that_cannot_be_is_an_error_with_count_and_name(
    tmp_path: Path, score: object, reason: str
) -> None:
    small_spaq(tmp_path)
    book = openpyxl.load_workbook(tmp_path / SPAQ_FILE)
    book.active["B3"] = score
    book.save(tmp_path / SPAQ_FILE)
    with pytest.raises(DataError, match=reason):
        registry.load("spaq", tmp_path)


@pytest.mark.parametrize("name", DATASETS)
def test_an_empty_folder_lists_every_form_looked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        registry.load(name, tmp_path)
    for layout in DATASETS[name].layouts:
        for source in layout.sources:
            for file in source.files:
                assert file in str(caught.value)
    assert DATASETS[name].download[0] in str(caught.value)


def test_a_root_one_folder_too_high_is_told(tmp_path: Path) -> None:
    small_spaq(tmp_path / "SPAQ")
    with pytest.raises(DataError, match=rf"they lie in {tmp_path / 'SPAQ'}: give that as root"):
        registry.load("spaq", tmp_path)


def test_a_root_that_is_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        registry.load("spaq", tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["0.jpg", "2400.png", "../5.png", "x.png"])
def test_a_number_beyond_the_generators_or_a_path_is_a_foreign_name(
    tmp_path: Path, name: str
) -> None:
    header = ["name", "prompt", "quality_mos", "authenticity_mos", "correspondence_mos"]
    write_csv(tmp_path / "AIGCIQA2023.csv", header, [[name, "a", 50, 50, 50]])
    with pytest.raises(DataError, match=r"1 names are not of the form .*: " + name):
        registry.load("aigciqa2023", tmp_path)


@pytest.mark.parametrize("name", ["aigiqa-20k", "aigciqa2023", "koniq-10k"])
def test_the_published_annotation_files_have_their_checksums(datasets: Path, name: str) -> None:
    report = verify(DATASETS[name], datasets / name)
    assert report.unchecked == ()
    assert not [p for p in report.problems if "as distributed" in p.reason]


def test_a_half_downloaded_set_is_one_problem_with_count_and_remedy(datasets: Path) -> None:
    (problem,) = verify(DATASETS["koniq-10k"], datasets / "koniq-10k").problems
    assert problem.reason.startswith("10073 of 10073 images missing: 10004473376.jpg, ")
    assert problem.reason.endswith(" and 10068 more")
    assert problem.remedy == "complete the download: https://osf.io/hcsdy"


def test_an_archive_beside_missing_images_is_to_be_unpacked(tmp_path: Path) -> None:
    small_spaq(tmp_path)
    (tmp_path / "SPAQ.zip").touch()
    spec = dataclasses.replace(DATASETS["spaq"], records=4)
    (problem,) = verify(spec, tmp_path).problems
    assert problem.file == str(tmp_path / "TestImage")
    assert problem.remedy.startswith("unpack SPAQ.zip")


def test_a_set_on_the_hub_is_completed_by_download(datasets: Path) -> None:
    root = datasets / "aigciqa2023"
    (problem,) = verify(DATASETS["aigciqa2023"], root).problems
    assert f"`ma-agiqa datasets download aigciqa2023 --root {root}`" in problem.remedy


def test_an_image_of_another_size_is_a_problem_in_any_orientation(tmp_path: Path) -> None:
    header = ["image_name", "MOS", "SD", "set"]
    rows: list[list[object]] = [[f"{i}.jpg", 50, 0.5, "test"] for i in range(3)]
    write_csv(tmp_path / "koniq10k_distributions_sets.csv", header, rows)
    (tmp_path / "1024x768").mkdir()
    for number, size in enumerate([(1024, 768), (768, 1024), (512, 384)]):
        Image.new("RGB", size).save(tmp_path / "1024x768" / f"{number}.jpg")
    spec = dataclasses.replace(DATASETS["koniq-10k"], records=3, checksums={})
    report = verify(spec, tmp_path)
    (problem,) = report.problems
    assert problem.reason == "512 x 384 pixels, expected 1024 x 768"
    assert (report.sound, report.damaged) == (2, 1)
    assert report.unchecked == ("koniq10k_distributions_sets.csv",)
    assert report.size == sum(p.stat().st_size for p in (tmp_path / "1024x768").iterdir())


def test_annotations_know_the_files_they_came_from(matlab_layout: Path) -> None:
    spec = DATASETS["aigciqa2023"]
    annotations = read_annotations(spec, matlab_layout)
    assert annotations.path == matlab_layout  # several files: the folder that holds them
    names = {path.name for path in annotations.files}
    assert names == {
        *(f"mosz{number}.mat" for number in (1, 2, 3)),
        "pic-index.xlsx",
        "AIGCIQA2023_Prompts.xlsx",
    }
    assert load_spec(spec, matlab_layout).name[-1] == "2399.png"
