"""Splits: the official lists exactly, no shared image, prompts kept apart or told."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ma_agiqa.data import datasets as registry
from ma_agiqa.data import splits
from ma_agiqa.data.datasets import DATASETS
from ma_agiqa.data.samples import Samples
from ma_agiqa.errors import DataError, UsageError

NAMES = ("paper", "random-3", "random-8-2-3", "prompt-3", "all")


def made(n: int = 200, prompts: int = 25) -> Samples:
    """Records whose prompts take turns."""
    names = tuple(f"{i:03d}.png" for i in range(n))
    groups = {"prompt": tuple(f"prompt {i % prompts}" for i in range(n))} if prompts else {}
    paths = tuple(Path(name) for name in names)
    return Samples(names, paths, {"quality": np.arange(n, dtype=float)}, groups, "made")


def prompts_of(samples: Samples, rows: np.ndarray) -> set[str]:
    return {samples.groups["prompt"][row] for row in rows}


@pytest.mark.parametrize("n", [2982, 14000])
def test_the_paper_split_is_the_official_one_in_order(fixtures: Path, n: int) -> None:
    official = np.load(fixtures / "split.npz")
    split = splits.resolve("paper", made(n), "unused")
    for part in ("train", "val", "test"):
        np.testing.assert_array_equal(split.part(part), official[f"n{n}/{part}"])


def test_the_paper_split_tells_that_training_knows_every_test_prompt(agiqa_3k: Path) -> None:
    samples = registry.load("agiqa-3k", agiqa_3k)
    split = splits.resolve("paper", samples, agiqa_3k)
    assert samples.name[split.test[0]] == "sd1.5_lowcorr_012.jpg"
    assert splits.prompt_overlap(samples, split.train, split.test) == 1.0
    assert any("every test prompt also occurs in training" in text for text in split.caveats)


@pytest.mark.parametrize(
    "name", [n for n in registry.get("agiqa-3k").splits if n.startswith("ipce")]
)
def test_published_lists_are_the_test_part_and_share_no_prompt(agiqa_3k: Path, name: str) -> None:
    samples = registry.load("agiqa-3k", agiqa_3k)
    split = splits.resolve(name, samples, agiqa_3k)
    listed = (agiqa_3k / "splits" / f"{name}-test.txt").read_text().split()
    assert [samples.name[row] for row in split.test] == listed
    parts = [prompts_of(samples, split.part(part)) for part in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 300
    assert len(split.part("all")) == len(samples)
    # A tenth of all images, passed by at most one prompt of ten.
    assert len(samples) // 10 <= len(split.val) <= len(samples) // 10 + 10


def test_a_generator_that_training_has_not_seen(agiqa_3k: Path) -> None:
    samples = registry.load("agiqa-3k", agiqa_3k)
    split = splits.resolve("unseen-midjourney", samples, agiqa_3k)
    made_by = np.array(samples.groups["generator"])
    assert set(made_by[split.test]) == {"midjourney"}
    assert len(split.test) == (made_by == "midjourney").sum() == 592
    assert "midjourney" not in set(made_by[split.train]) | set(made_by[split.val])
    assert not prompts_of(samples, split.train) & prompts_of(samples, split.val)
    assert len(split.part("all")) == len(samples)
    assert len(samples) // 10 <= len(split.val) <= len(samples) // 10 + 10
    assert any("also occurs in training" in caveat for caveat in split.caveats)


def test_an_unseen_generator_does_without_prompts() -> None:
    samples = replace(made(prompts=0), groups={"generator": ("a", "b", "c", "b") * 50})
    split = splits.resolve("unseen-b", samples, "unused")
    assert split.test.tolist() == list(range(1, 200, 2))
    assert (len(split.val), len(split.train)) == (20, 80)


@pytest.mark.parametrize(
    ("groups", "reason"),
    [({"generator": ("glide",) * 200}, "did you mean glide"), ({}, "names no generator 'glid'")],
)
def test_a_generator_that_is_not_there_is_an_error(
    groups: dict[str, tuple[str, ...]], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        splits.resolve("unseen-glid", replace(made(prompts=0), groups=groups), "unused")


@pytest.mark.parametrize("name", NAMES)
def test_a_split_gives_every_image_to_one_part_and_repeats(name: str) -> None:
    samples = made()
    split, again = (splits.resolve(name, samples, "unused") for _ in range(2))
    together = np.concatenate([split.train, split.val, split.test])
    assert sorted(together) == list(range(len(samples)))
    np.testing.assert_array_equal(split.part("all"), np.arange(len(samples)))
    for part in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(split, part), getattr(again, part))


@pytest.mark.parametrize("kind", ["random", "prompt"])
def test_another_seed_is_another_split(kind: str) -> None:
    one, other = (splits.resolve(f"{kind}-{seed}", made(), "unused") for seed in (0, 1))
    assert set(one.test) != set(other.test)


def test_random_with_the_papers_seed_is_the_papers_split() -> None:
    one, other = (splits.resolve(name, made(), "unused") for name in ("paper", "random-20"))
    np.testing.assert_array_equal(one.test, other.test)


def test_a_prompt_split_keeps_prompts_apart_and_nears_7_1_2() -> None:
    samples = made(n=1000, prompts=100)
    split = splits.resolve("prompt-0", samples, "unused")
    known = prompts_of(samples, split.train)
    assert not known & prompts_of(samples, split.val)
    assert not known & prompts_of(samples, split.test)
    assert not prompts_of(samples, split.val) & prompts_of(samples, split.test)
    assert [len(split.train), len(split.val), len(split.test)] == [700, 100, 200]
    assert split.caveats == ()


def test_a_prompt_split_does_not_depend_on_the_order_of_the_table() -> None:
    samples = made()
    turned = samples.subset(np.arange(len(samples))[::-1])
    one, other = (splits.resolve("prompt-0", s, "unused") for s in (samples, turned))
    assert prompts_of(samples, one.test) == prompts_of(turned, other.test)


def test_shared_prompts_are_measured_not_assumed() -> None:
    samples = made(n=10, prompts=5)
    train, test = np.arange(3), np.arange(5, 10)  # prompts 0 1 2, and 0 1 2 3 4
    assert splits.prompt_overlap(samples, train, test) == 3 / 5
    few = splits.resolve("random-0", made(n=200, prompts=150), "unused")
    assert "of the test images have a prompt" in few.caveats[0]


def test_unknown_prompts_are_told() -> None:
    split = splits.resolve("paper", made(prompts=0), "unused")
    assert "prompts are unknown" in split.caveats[0]


def test_a_prompt_split_without_prompts_is_an_error() -> None:
    with pytest.raises(DataError, match="no group 'prompt'"):
        splits.resolve("prompt-0", made(prompts=0), "unused")


def test_a_prompt_split_with_an_empty_prompt_is_an_error() -> None:
    samples = Samples(
        ("a", "b"), (Path("a"), Path("b")), {"q": np.ones(2)}, {"prompt": ("", "x")}, "d"
    )
    with pytest.raises(DataError, match="1 images of d have no prompt"):
        splits.resolve("prompt-0", samples, "unused")


@pytest.mark.parametrize("name", ["paper", "prompt-0"])
def test_too_few_images_for_three_parts_are_an_error(name: str) -> None:
    with pytest.raises(DataError, match="empty part"):
        splits.resolve(name, made(n=3, prompts=2), "unused")


def test_an_image_in_two_parts_is_an_error() -> None:
    with pytest.raises(DataError, match="1 images in train and test"):
        splits.Split("s", "p", (), np.array([0, 1]), np.array([2]), np.array([1, 3]))


def test_an_image_twice_in_a_part_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "ipce-01-test.txt").write_text("001.png\n001.png\n")
    with pytest.raises(DataError, match="twice in test"):
        splits.resolve("ipce-01", made(), tmp_path)


def test_a_list_with_foreign_names_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "ipce-01-test.txt").write_text("001.png\nother.png\n")
    with pytest.raises(DataError, match=r"1 names are not in made: other\.png"):
        splits.resolve("ipce-01", made(), tmp_path)


def test_a_missing_list_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ipce-01-test.txt: .*prompt-0"):
        splits.resolve("ipce-01", made(), tmp_path)


@pytest.mark.parametrize("name", ["papr", "random-", "prompt-x", "ipce-1", "paper ", ""])
def test_an_unknown_split_lists_the_forms(name: str) -> None:
    with pytest.raises(UsageError, match="splits are paper, official, random-0"):
        splits.resolve(name, made(), "unused")


def test_name_and_part_are_read_from_text() -> None:
    assert splits.parse("paper:test") == ("paper", "test")
    assert splits.parse("ipce-01:all") == ("ipce-01", "all")
    assert splits.parse("paper", default_part="test") == ("paper", "test")


@pytest.mark.parametrize("text", ["paper", ":test", "paper:", "paper:tset", "paper:test:val", ""])
def test_a_malformed_part_is_an_error_that_shows_the_form(text: str) -> None:
    with pytest.raises(UsageError, match="NAME:PART"):
        splits.parse(text)


def test_an_empty_or_unknown_part_is_an_error() -> None:
    split = splits.resolve("all", made(), "unused")
    with pytest.raises(DataError, match="no images in its part 'train'"):
        split.part("train")
    with pytest.raises(UsageError, match="did you mean train"):
        split.part("trian")


COUNTS = [
    ("agiqa-3k", "paper", (2087, 298, 597)),
    ("agiqa-3k", "random-8-2-0", (2147, 238, 597)),
    ("aigiqa-20k", "paper", (9800, 1400, 2800)),
    ("aigciqa2023", "paper", (1680, 240, 480)),
    ("aigciqa2023", "random-8-2-1", (1728, 192, 480)),
    ("koniq-10k", "paper", (7253, 805, 2015)),
    ("koniq-10k", "official", (7058, 1000, 2015)),
    ("koniq-10k", "random-8-2-7", (7253, 805, 2015)),
    ("live-itw", "random-8-2-0", (631, 70, 176)),
    ("live-itw", "random-0", (613, 88, 176)),
]
"""Where the facts of the method give a number it is this one: 2087/298/597 and 2,800 test images
for the paper, 480 for AIGCIQA2023, 7058/1000/2015 official. Validation of 8:2 is ours."""


def plain(n: int, **facts: object) -> Samples:
    """Records without groups, and with these facts."""
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
    samples = plain(100, paper=DATASETS[name].paper, official_set=official)
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
        splits.resolve("official", plain(10), "unused")


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
    split = splits.resolve("random-8-2-3", plain(11125), "unused")
    assert len(split.train) + len(split.val) == 8900
    assert len(split.test) == 2225
    assert len(split.val) == 890


def test_a_split_leaves_the_global_generators_alone() -> None:
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr,index]
    for name in ("random-3", "random-8-2-3"):
        splits.resolve(name, plain(100), "unused")
    after = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr,index]
    assert before == after


def test_one_official_set_is_split_on_its_own() -> None:
    official = ("test", "training") * 50
    samples = plain(100, official_set=official)
    split = splits.resolve("training/random-3", samples, "unused")
    alone = splits.resolve("random-3", samples.subset(np.arange(1, 100, 2)), "unused")
    assert split.name == "training/random-3"
    np.testing.assert_array_equal(split.part("all"), np.arange(1, 100, 2))
    np.testing.assert_array_equal(split.test, alone.test * 2 + 1)


def test_photographs_have_no_prompts_to_share_and_none_to_split_by() -> None:
    photographs = plain(100, photographs=True)
    assert splits.resolve("random-0", photographs, "unused").caveats == ()
    with pytest.raises(DataError, match="photographs have no prompts"):
        splits.resolve("prompt-0", photographs, "unused")


@pytest.mark.parametrize("name", ["paper", "random-8-2-0", "all"])
def test_caveats_of_the_samples_reach_every_split(name: str) -> None:
    samples = plain(100, caveats=("images reduced",))
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


@st.composite
def tables(draw: st.DrawFn) -> Samples:
    """A table of any length with any prompts, and a generator of each image."""
    rows = draw(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=60))
    names = tuple(f"{i:03d}.png" for i in range(len(rows)))
    groups = {
        "prompt": tuple(f"prompt {number}" for number, _ in rows),
        "generator": tuple("glide" if own else "sd1.5" for _, own in rows),
    }
    scores = {"quality": np.arange(len(names), dtype=float)}
    return Samples(names, tuple(map(Path, names)), scores, groups, "drawn")


# The same tables in every run, and no limit of time: the machine may be busy.
@settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    samples=tables(),
    kind=st.sampled_from(["random-{}", "random-8-2-{}", "prompt-{}", "unseen-glide", "all"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_parts_of_any_table_are_disjoint_and_complete(
    samples: Samples, kind: str, seed: int
) -> None:
    try:
        split = splits.resolve(kind.format(seed), samples, "unused")
    except DataError as error:
        # Too few images for three parts, or none that was made by glide.
        refused = "empty part" in str(error) or "names no generator" in str(error)
        if not refused:
            raise
        return
    dealt = np.concatenate([split.train, split.val, split.test]).tolist()
    assert sorted(dealt) == list(range(len(samples)))
    if kind == "prompt-{}":
        parts = [prompts_of(samples, rows) for rows in (split.train, split.val, split.test)]
        assert sum(map(len, parts)) == len(set().union(*parts))
