"""`ma-agiqa datasets` tells all there is to know, and docs/datasets.md says the same."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from conftest import REPOSITORY
from ma_agiqa.data.datasets import DATASETS
from support.command_line import run

PAGE = (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [
    line.split("#")[0].strip()
    for _, block in BLOCKS
    for line in block.splitlines()
    if line.startswith("ma-agiqa ")
]


def test_all_six_are_listed() -> None:
    shown = run("datasets").stdout
    known = ["agiqa-3k", "aigiqa-20k", "aigciqa2023", "koniq-10k", "spaq", "live-itw"]
    assert list(DATASETS) == known
    for name, spec in DATASETS.items():
        assert re.search(rf"{name}\s+{spec.records}\b", shown)


@pytest.mark.parametrize("name", DATASETS)
def test_show_tells_targets_splits_licence_citation_addresses_and_layout(name: str) -> None:
    spec = DATASETS[name]
    result = run("datasets", "show", name)
    assert result.exit_code == 0
    told = [spec.title, spec.licence, spec.citation, *spec.download, *spec.unpack]
    told += [target.meaning for target in spec.targets.values()]
    told += [f"target {target}" for target in spec.targets]
    told += list(spec.splits.values())
    told += list(spec.annotations)
    assert [text for text in told if text not in result.stdout] == []
    assert ("prompt-SEED" in result.stdout) is not spec.photographs


def test_splits_alike_share_a_line() -> None:
    shown = run("datasets", "show", "agiqa-3k").stdout
    assert "split ipce-01 to ipce-10" in shown
    assert shown.count("published with IPCE") == 1


@pytest.mark.parametrize("name", DATASETS)
def test_the_page_says_what_the_registry_says(name: str) -> None:
    spec = DATASETS[name]
    told = [f"`{name}`", f"{spec.records:,}", spec.licence, *spec.download]
    told += [f"`{target}`" for target in spec.targets]
    told += [f"{spec.scale.low:g} to {spec.scale.high:g}"]
    told += [f"`{split}`" for split in spec.splits if split in ("paper", "official")]
    assert [text for text in told if text not in PAGE] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_exists_with_its_options(command: str) -> None:
    # `--help` at the end parses all before it and runs nothing; an unknown option fails first.
    result = run(*shlex.split(command)[1:], "--help")
    assert result.exit_code == 0, result.output
    assert run(*shlex.split(command)[1:], "--no-such", "--help").exit_code == 2


def test_the_python_of_the_page_runs_on_the_real_annotations(
    datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "KonIQ-10k").symlink_to(datasets / "koniq-10k")
    monkeypatch.chdir(tmp_path)
    (code,) = [text for language, text in BLOCKS if language == "python"]
    exec(compile(code, "docs/datasets.md", "exec"), {})
    assert capsys.readouterr().out.startswith("7058 training, validation and test sets")


def test_verify_tells_what_it_could_not_compare(tmp_path: Path) -> None:
    header = "Image name,MOS,Brightness,Colorfulness,Contrast,Noisiness,Sharpness\n"
    (tmp_path / "MOS and Image attribute scores.csv").write_text(header + "00001.jpg" + ",1" * 6)
    result = run("datasets", "verify", "spaq", "--root", tmp_path)
    assert result.exit_code == 1
    assert "1 records, expected 11125" in result.stdout
    assert "1 of 1 images missing: 00001.jpg" in result.stdout
    assert "no checksum is known: MOS and Image attribute scores.csv" in result.stderr


def test_verify_without_annotations_does_not_count_images(tmp_path: Path) -> None:
    result = run("datasets", "verify", "spaq", "--root", tmp_path)
    assert result.exit_code == 1
    assert "the annotations of SPAQ are not there" in result.stdout
    assert "images were not looked for" in result.stderr
