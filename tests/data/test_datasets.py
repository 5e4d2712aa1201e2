"""The known data sets: the real annotation files, and every published form of them."""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from scipy.io import loadmat, savemat
from small_datasets import (
    HEADER,
    SPAQ_FILE,
    small_20k,
    small_agiqa_3k,
    small_live_itw,
    small_spaq,
    write_csv,
)

from ma_agiqa.data import datasets as registry
from ma_agiqa.data.datasets import DATASETS, Dataset, load_known
from ma_agiqa.data.samples import require_images
from ma_agiqa.data.verify import verify
from ma_agiqa.errors import DataError, UsageError


@pytest.fixture
def small(tmp_path: Path) -> tuple[Dataset, Path]:
    """A data set of three records in the layout of AGIQA-3K, and its root."""
    return small_agiqa_3k(tmp_path), tmp_path


def test_a_subset_keeps_every_column_in_step(small: tuple[Dataset, Path]) -> None:
    samples = load_known(*small)
    part = samples.subset([2, 0])
    assert part.name == ("xl2.2_normal_002.jpg", "AttnGAN_normal_000.jpg")
    assert [path.name for path in part.path] == list(part.name)
    assert part.target("alignment").tolist() == [4.5, 2.5]
    assert part.groups["prompt"] == ("a dog", "a cat, asleep")


def test_an_unknown_target_lists_the_known_ones(small: tuple[Dataset, Path]) -> None:
    with pytest.raises(UsageError, match="quality, alignment; did you mean quality"):
        load_known(*small).target("qualty")


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


def test_names_tell_generator_and_setting(small: tuple[Dataset, Path]) -> None:
    samples = load_known(*small)
    assert samples.groups["generator"] == ("AttnGAN", "sd1.5", "xl2.2")
    assert samples.groups["setting"] == ("normal", "lowstep", "normal")
    assert samples.groups["prompt"] == ("a cat, asleep", "007", "a dog")
    assert list(samples.targets) == ["quality", "alignment"]


def test_foreign_names_are_refused(small: tuple[Dataset, Path]) -> None:
    spec, root = small
    (root / "data.csv").write_text(f"{HEADER}\nholiday.jpg,a dog,,,,5,0.2,4.5,0\n")
    with pytest.raises(DataError, match=r"1 names are not of the form .*: holiday.jpg"):
        load_known(spec, root)


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


TRAIN_COUNTS = {
    **dict.fromkeys(["Dream", "Pixart", "Playground", "SD1.4", "SD1.5", "SDXL", "SSD1B"], 1400),
    **dict.fromkeys(["LCM_Pixart", "LCM_SD1.5", "LCM_SDXL", "SDXL_Turbo"], 700),
    **dict.fromkeys(["DALLE2", "DALLE3", "IF", "MJ"], 350),
}
"""Images for each generator in the training part of AIGIQA-20K, as published."""


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


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
        (100.5, r"1 values of 'MOS' outside 0 to 100: 00002.jpg \(100.5\)"),
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
    assert all(files in str(caught.value) for files in DATASETS[name].annotations)
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


def test_annotations_know_the_files_they_came_from(matlab_layout: Path) -> None:
    spec = DATASETS["aigciqa2023"]
    samples = load_known(spec, matlab_layout)
    assert {path.name for path in samples.files} == {
        *(f"mosz{number}.mat" for number in (1, 2, 3)),
        "pic-index.xlsx",
        "AIGCIQA2023_Prompts.xlsx",
    }
    assert samples.name[-1] == "2399.png"


def test_live_in_the_wild_is_a_table_of_names_and_pictures(tmp_path: Path) -> None:
    names = small_live_itw(tmp_path)
    samples = registry.load("live-itw", tmp_path)
    assert samples.name == tuple(names)
    assert [path.is_file() for path in samples.path] == [True] * 20
    assert samples.target()[3] == 15
    assert samples.std["quality"].tolist() == [15.5] * 20
    assert samples.photographs
    assert samples.caveats == ("20 of the 1,162 images of LIVE In the Wild",)


def test_a_whole_copy_of_live_in_the_wild_has_no_caveat(tmp_path: Path) -> None:
    rows: list[list[object]] = [[f"{i}.bmp", 50, 15] for i in range(1162)]
    write_csv(tmp_path / "ratings.csv", ["name", "mos", "std"], rows)
    assert registry.load("live-itw", tmp_path).caveats == ()


@pytest.mark.parametrize("name", ["a/1.jpg", "1.mat", "1"])
def test_a_name_that_is_no_picture_is_foreign_to_live_in_the_wild(
    tmp_path: Path, name: str
) -> None:
    write_csv(tmp_path / "ratings.csv", ["name", "mos"], [[name, 50]])
    with pytest.raises(DataError, match=f"1 names are not of the form .*: {name}"):
        registry.load("live-itw", tmp_path)


def test_the_pictures_of_live_in_the_wild_at_hand_are_read(datasets: Path) -> None:
    samples = registry.load("live-itw", datasets / "live-itw")
    assert len(samples) == 877
    require_images(samples)
    suffixes = Counter(path.suffix for path in samples.path)
    assert suffixes == {".jpg": 627, ".webp": 250}
    assert samples.target()[0] == 39.234559  # as written in the file
    assert 3.4 < samples.target().min() < samples.target().max() < 92.5
    assert samples.caveats == ("877 of the 1,162 images of LIVE In the Wild",)


def test_one_image_under_two_spellings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        f"image,score\na.png,1\n./a.png,2\n{tmp_path}/b.png,3\nb.png,1\n"
    )
    with pytest.raises(
        DataError, match=r"several ways: a\.png and \./a\.png, .*/b\.png and b\.png"
    ):
        registry.load(str(tmp_path / "t.csv"), tmp_path)
