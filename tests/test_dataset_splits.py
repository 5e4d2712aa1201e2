"""The splits of the five data sets on their real annotation files: counts, order, disjointness."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from ma_agiqa.data import registry, splits
from ma_agiqa.data.registry import DATASETS
from ma_agiqa.data.samples import Samples
from ma_agiqa.errors import DataError

COUNTS = [
    ("agiqa-3k", "paper", (2087, 298, 597)),
    ("agiqa-3k", "random-8-2-0", (2147, 238, 597)),
    ("aigiqa-20k", "paper", (9800, 1400, 2800)),
    ("aigciqa2023", "paper", (1680, 240, 480)),
    ("aigciqa2023", "random-8-2-1", (1728, 192, 480)),
    ("koniq-10k", "paper", (7253, 805, 2015)),
    ("koniq-10k", "official", (7058, 1000, 2015)),
    ("koniq-10k", "random-8-2-7", (7253, 805, 2015)),
]
"""Where the facts of the method give a number it is this one: 2087/298/597 and 2,800 test images
for the paper, 480 for AIGCIQA2023, 7058/1000/2015 official. Validation of 8:2 is ours."""


def made(n: int, **facts: object) -> Samples:
    names = tuple(f"{i:05d}.jpg" for i in range(n))
    scores = {"quality": np.arange(n, dtype=float)}
    return Samples(names, tuple(map(Path, names)), scores, {}, "made", **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "split", "counts"), COUNTS)
def test_counts_and_disjointness_on_the_real_annotations(
    datasets: Path, name: str, split: str, counts: tuple[int, int, int]
) -> None:
    samples = registry.load(name, datasets / name)
    one, again = (splits.resolve(split, samples, datasets / name) for _ in range(2))
    assert (len(one.train), len(one.val), len(one.test)) == counts
    assert len(one.part("all")) == len(set(one.part("all").tolist())) == sum(counts)
    for part in ("train", "val", "test"):
        np.testing.assert_array_equal(one.part(part), again.part(part))
    assert one.name == split


@pytest.mark.parametrize("name", DATASETS)
def test_the_splits_a_data_set_names_are_splits(name: str) -> None:
    official = ("training",) * 80 + ("validation",) * 5 + ("test",) * 15
    samples = made(100, paper=DATASETS[name].paper, official_set=official)
    published = [f"ipce-{number:02d}" for number in range(1, 11)]  # lists, tested with them
    for split in DATASETS[name].splits:
        if split not in published:
            assert splits.resolve(split, samples, "unused").name == split
    assert "paper" in DATASETS[name].splits


@pytest.mark.parametrize("name", ["agiqa-3k", "aigiqa-20k", "aigciqa2023"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_prompt_is_in_two_parts_of_a_split_by_prompt(
    datasets: Path, name: str, seed: int
) -> None:
    samples = registry.load(name, datasets / name)
    split = splits.resolve(f"prompt-{seed}", samples, datasets / name)
    prompts = samples.groups["prompt"]
    parts = [{prompts[row] for row in split.part(part)} for part in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(set(prompts))
    share = len(samples) // 10
    # Whole prompts are dealt until a part is full: over by less than one prompt (24 images).
    assert 2 * share <= len(split.test) <= 2 * share + 24
    assert share <= len(split.val) < share + 24
    assert split.caveats == ()


def test_the_papers_20k_split_is_the_official_one_with_and_without_the_other_files(
    datasets: Path, fixtures: Path, tmp_path: Path
) -> None:
    train = datasets / "aigiqa-20k" / "info_train.csv"
    shutil.copyfile(train, tmp_path / train.name)
    official = np.load(fixtures / "split.npz")
    alone = registry.load("aigiqa-20k", tmp_path)
    for part, generator, n in (("val", "MadeUp", 2000), ("test", "AlsoMadeUp", 4000)):
        rows = (f"{generator}_{i:04d}.png,new prompt {part} {i},3\n" for i in range(n))
        (tmp_path / f"info_{part}.csv").write_text("name,prompt,mos\n" + "".join(rows))
    whole = registry.load("aigiqa-20k", tmp_path)
    assert (len(alone), len(whole)) == (14000, 20000)
    for samples in (alone, whole):
        split = splits.resolve("paper", samples, tmp_path)
        for part in ("train", "val", "test"):
            np.testing.assert_array_equal(split.part(part), official[f"n14000/{part}"])
        assert "of the 14000 images of the official training set" in split.protocol
    split = splits.resolve("official", whole, tmp_path)
    assert [len(split.part(part)) for part in ("train", "val", "test")] == [14000, 2000, 4000]
    assert split.caveats == ()  # the made prompts are new


def test_the_official_split_needs_the_other_files_and_says_so(datasets: Path) -> None:
    samples = registry.load("aigiqa-20k", datasets / "aigiqa-20k")
    with pytest.raises(DataError, match=r"no scored images of the official validation set, only "):
        splits.resolve("official", samples, "unused")
    with pytest.raises(DataError, match="made has no official sets here"):
        splits.resolve("official", made(10), "unused")


def test_the_official_sets_of_koniq_10k_are_the_rows_of_the_file(datasets: Path) -> None:
    samples = registry.load("koniq-10k", datasets / "koniq-10k")
    split = splits.resolve("official", samples, "unused")
    assert samples.official_set is not None
    for part, name in (("train", "training"), ("val", "validation"), ("test", "test")):
        assert {samples.official_set[row] for row in split.part(part)} == {name}


def test_eight_two_is_the_shuffle_of_the_official_code(datasets: Path) -> None:
    # split_dataset_koniq10k: np.random.seed(20), then np.random.shuffle of the list of names.
    samples = registry.load("koniq-10k", datasets / "koniq-10k")
    state = np.random.get_state()
    np.random.seed(20)
    names = list(samples.name)
    np.random.shuffle(names)
    np.random.set_state(state)
    split = splits.resolve("paper", samples, "unused")
    assert [samples.name[row] for row in split.test] == names[int(0.8 * len(names)) :]
    dealt = [samples.name[row] for row in np.concatenate([split.train, split.val])]
    assert dealt == names[: int(0.8 * len(names))]


def test_eight_two_of_spaq_has_the_parts_others_report() -> None:
    split = splits.resolve("random-8-2-3", made(11125), "unused")
    assert len(split.train) + len(split.val) == 8900
    assert len(split.test) == 2225
    assert len(split.val) == 890


def test_a_split_leaves_the_global_generators_alone() -> None:
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr,index]
    for name in ("random-3", "random-8-2-3"):
        splits.resolve(name, made(100), "unused")
    after = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr,index]
    assert before == after


def test_one_official_set_is_split_on_its_own() -> None:
    official = ("test", "training") * 50
    samples = made(100, official_set=official)
    split = splits.resolve("training/random-3", samples, "unused")
    alone = splits.resolve("random-3", samples.subset(np.arange(1, 100, 2)), "unused")
    assert split.name == "training/random-3"
    np.testing.assert_array_equal(split.part("all"), np.arange(1, 100, 2))
    np.testing.assert_array_equal(split.test, alone.test * 2 + 1)


def test_photographs_have_no_prompts_to_share_and_none_to_split_by() -> None:
    photographs = made(100, photographs=True)
    assert splits.resolve("random-0", photographs, "unused").caveats == ()
    with pytest.raises(DataError, match="photographs have no prompts"):
        splits.resolve("prompt-0", photographs, "unused")


@pytest.mark.parametrize("name", ["paper", "random-8-2-0", "all"])
def test_caveats_of_the_samples_reach_every_split(name: str) -> None:
    samples = made(100, caveats=("images reduced",))
    assert "images reduced" in splits.resolve(name, samples, "unused").caveats


def test_a_list_that_shares_prompts_is_no_split_by_prompt(tmp_path: Path) -> None:
    names = tuple(f"{i:02d}.png" for i in range(40))
    prompts = tuple(f"prompt {i // 4}" for i in range(40))
    scores = {"quality": np.arange(40.0)}
    samples = Samples(names, tuple(map(Path, names)), scores, {"prompt": prompts}, "made")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "ipce-01-test.txt").write_text("00.png\n01.png\n02.png\n")
    with pytest.raises(DataError, match=r"split ipce-01: 1 prompts occur in .* and test: prompt 0"):
        splits.resolve("ipce-01", samples, tmp_path)


FIRST = [
    ("agiqa-3k", "random-8-2-0", "DALLE2_normal_017 glide_normal_055 glide_normal_157"),
    ("aigiqa-20k", "prompt-0", "DALLE2_0000 DALLE2_0004 DALLE2_0002"),
    ("aigciqa2023", "paper", "1706 569 533"),
    ("aigciqa2023", "prompt-0", "0 8 20"),
    ("koniq-10k", "paper", "10680715605 5212354067 7693237184"),
    ("koniq-10k", "official", "10004473376 10043785683 10007357496"),
]
"""Stems of the first image of each part, as dealt when the splits were made."""


@pytest.mark.parametrize(("name", "split", "stems"), FIRST)
def test_a_split_is_the_one_it_was(datasets: Path, name: str, split: str, stems: str) -> None:
    samples = registry.load(name, datasets / name)
    one = splits.resolve(split, samples, datasets / name)
    firsts = [Path(samples.name[one.part(part)[0]]).stem for part in ("train", "val", "test")]
    assert firsts == stems.split()
