"""A copy on disk: what is asked of the Hub, and what each kind of damage says."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from small_datasets import ROWS, small_agiqa_3k, small_live_itw, small_spaq, write_csv

from ma_agiqa.data import datasets as registry
from ma_agiqa.data.datasets import DATASETS, Dataset
from ma_agiqa.data.verify import VerifyReport, download, verify
from ma_agiqa.errors import DataError, UsageError
from support.command_line import run


@pytest.fixture
def small(tmp_path: Path) -> tuple[Dataset, Path]:
    """A data set of three records in the layout of AGIQA-3K, and its root."""
    return small_agiqa_3k(tmp_path), tmp_path


def only_problem(report: VerifyReport) -> str:
    assert not report.ok
    assert len(report.problems) == 1
    assert report.problems[0].remedy
    return f"{report.problems[0].file}: {report.problems[0].reason}"


def test_a_sound_data_set_verifies(small: tuple[Dataset, Path]) -> None:
    seen: list[int] = []
    report = verify(*small, on_image=lambda: seen.append(1))
    assert report.ok
    assert (report.records, report.sound, report.missing, report.damaged) == (3, 3, 0, 0)
    assert len(seen) == 3


def test_agiqa_3k_verifies(agiqa_3k: Path) -> None:
    report = verify(registry.get("agiqa-3k"), agiqa_3k)
    assert report.problems == ()
    assert report.sound == report.records == report.expected == 2982


def test_other_line_ends_are_the_same_file(small: tuple[Dataset, Path]) -> None:
    spec, root = small
    annotations = root / "data.csv"
    annotations.write_bytes(annotations.read_bytes().replace(b"\r\n", b"\n"))
    assert verify(spec, root).ok


def test_a_missing_annotation_file_is_a_problem(small: tuple[Dataset, Path]) -> None:
    spec, root = small
    (root / "data.csv").unlink()
    assert "the annotations of AGIQA-3K are not there; looked for data.csv" in only_problem(
        verify(spec, root)
    )


def test_a_missing_image_is_a_problem(small: tuple[Dataset, Path]) -> None:
    spec, root = small
    (root / "images" / "sd1.5_lowstep_001.jpg").unlink()
    report = verify(spec, root)
    assert only_problem(report).endswith("1 of 3 images missing: sd1.5_lowstep_001.jpg")
    assert (report.missing, report.sound) == (1, 2)


@pytest.mark.parametrize("keep", [0, 40, 400])
def test_an_image_cut_short_is_a_problem(small: tuple[Dataset, Path], keep: int) -> None:
    spec, root = small
    path = root / "images" / "xl2.2_normal_002.jpg"
    path.write_bytes(path.read_bytes()[:keep])
    report = verify(spec, root)
    assert "xl2.2_normal_002.jpg" in only_problem(report)
    assert (report.damaged, report.sound) == (1, 2)


def test_an_unknown_image_is_a_problem_and_other_files_are_not(
    small: tuple[Dataset, Path],
) -> None:
    spec, root = small
    Image.new("RGB", (8, 8)).save(root / "images" / "mine.png")
    (root / "images" / ".DS_Store").touch()
    (root / "images" / "Thumbs.db").touch()
    report = verify(spec, root)
    assert "1 images that no record names: mine.png" in only_problem(report)
    assert report.extra == 1


def test_an_edited_annotation_file_is_a_problem(small: tuple[Dataset, Path]) -> None:
    spec, root = small
    annotations = root / "data.csv"
    annotations.write_bytes(annotations.read_bytes().replace(b"3.25", b"3.75"))
    assert "not the annotation file as distributed" in only_problem(verify(spec, root))


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (
            b"3.25",
            b"5.5",
            r"1 values of 'mos_quality' outside 0 to 5: sd1.5_\w+.jpg \(5.5\)",
        ),
        (b"3.25,0.2", b"3.25,-0.2", "1 of 3 standard deviations of 'quality' are negative or none"),
        (b"3.25,0.2", b"3.25,x", "1 of 3 standard deviations of 'quality' are negative or none"),
        (b"3.25", b"nan", "1 of 3 values of 'mos_quality' are no finite numbers"),
        (b"xl2.2_normal_002", b"AttnGAN_normal_000", "occur more than once"),
        (ROWS[2].encode() + b"\r\n", b"", "2 records, expected 3"),
    ],
)
def test_an_inconsistent_annotation_file_is_a_problem(
    small: tuple[Dataset, Path], before: bytes, after: bytes, reason: str
) -> None:
    spec, root = small
    annotations = root / "data.csv"
    assert before in annotations.read_bytes()
    annotations.write_bytes(annotations.read_bytes().replace(before, after))
    reasons = "; ".join(problem.reason for problem in verify(spec, root).problems)
    assert re.search(reason, reasons), reasons


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


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Stands in for the Hub: notes what it is asked for, and writes or fails as told."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.calls: list[dict[str, Any]] = []

    def dataset_info(self, repository: str, *, revision: str | None) -> SimpleNamespace:
        self.calls.append({"info": repository, "revision": revision})
        return SimpleNamespace(sha=COMMIT)

    def snapshot_download(self, repository: str, **arguments: Any) -> str:
        self.calls.append({"repository": repository, **arguments})
        if self.failure is not None:
            raise self.failure
        return str(arguments["local_dir"])


def stand_in(monkeypatch: pytest.MonkeyPatch, failure: Exception | None = None) -> Hub:
    hub = Hub(failure)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_only_the_files_of_the_data_set_are_fetched_at_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = stand_in(monkeypatch)
    assert download(DATASETS["agiqa-3k"], tmp_path, revision="main") == COMMIT
    assert hub.calls == [
        {"info": "strawhat/agiqa-3k", "revision": "main"},
        {
            "repository": "strawhat/agiqa-3k",
            "repo_type": "dataset",
            "revision": COMMIT,
            "local_dir": tmp_path,
            "allow_patterns": ["data.csv", "images/*"],
        },
    ]


def client_error() -> Exception:
    """Return an error of the HTTP client below the hub library, as a broken line gives."""
    base = next(base for base in HfHubHTTPError.__bases__ if base is not OSError)
    return base("the line broke\nand more")  # type: ignore[return-value]


@pytest.mark.parametrize("failure", [client_error(), OSError("disk full"), ValueError("bad id")])
def test_a_broken_download_says_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    stand_in(monkeypatch, failure)
    first = str(failure).splitlines()[0]
    with pytest.raises(DataError, match=f"could not be fetched from the Hub: {first} .*goes on"):
        download(DATASETS["agiqa-3k"], tmp_path)


def test_offline_an_unfinished_folder_is_not_taken_for_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "data.csv").write_text("half of it")
    with pytest.raises(DataError, match=r"offline.*HF_HUB_OFFLINE"):
        download(DATASETS["agiqa-3k"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


@pytest.mark.parametrize("name", [name for name, spec in DATASETS.items() if spec.hub is None])
def test_what_is_not_on_the_hub_names_addresses_and_layout(tmp_path: Path, name: str) -> None:
    spec = DATASETS[name]
    with pytest.raises(UsageError) as caught:
        download(spec, tmp_path)
    assert all(text in str(caught.value) for text in (*spec.download, *spec.unpack))
    result = run("datasets", "download", name, "--root", tmp_path)
    assert result.exit_code == 2
    assert all(text in result.stdout for text in (*spec.download, *spec.unpack))


def test_the_command_says_which_commit_and_what_is_left_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    result = run("datasets", "download", "aigciqa2023", "--root", tmp_path)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"IntMeGroup/AIGCIQA2023 at commit {COMMIT} is in {tmp_path}"
    assert "unpack allimg.zip" in lines[1]
    assert lines[-1] == f"check it: ma-agiqa datasets verify aigciqa2023 --root {tmp_path}"


def test_a_copy_of_live_in_the_wild_may_hold_fewer_pictures_and_says_so(tmp_path: Path) -> None:
    names = small_live_itw(tmp_path)
    report = verify(DATASETS["live-itw"], tmp_path)
    assert report.ok
    assert (report.expected, report.records, report.sound) == (20, 20, 20)
    partial, copies = report.caveats
    assert partial == "20 of the 1,162 images of LIVE In the Wild"
    assert copies.startswith("17 images are copies of others: 0.jpg = 3.JPG = 4.jpg = ")
    (tmp_path / "images" / names[0]).unlink()
    reason = only_problem(verify(DATASETS["live-itw"], tmp_path))
    assert reason.endswith(f"1 of 20 images missing: {names[0]}")


def test_the_pictures_of_live_in_the_wild_at_hand_verify(datasets: Path) -> None:
    report = verify(DATASETS["live-itw"], datasets / "live-itw")
    assert report.problems == ()
    assert (report.sound, report.expected) == (877, 877)
