"""Splits: the official lists exactly, no shared image, prompts kept apart or told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ma_agiqa.data import registry, splits
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
    samples = Samples(("a", "b"), (Path("a"),) * 2, {"q": np.ones(2)}, {"prompt": ("", "x")}, "d")
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
