"""What the network is shown of a training image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ma_agiqa.training.recipe import Recipe
from ma_agiqa.training.views import View, global_view, local_view, paper_turn, reduce_whole, stacked

PLAIN = Recipe(crop=64, reduce_prob=0, enlarge_prob=0, flip_prob=0)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 150, 3)).astype(np.uint8)


def view(image: np.ndarray, recipe: Recipe, *, seed: int = 0, distorted: bool = False) -> View:
    rng = np.random.default_rng(seed)
    if recipe.views != "local":
        return global_view(image, recipe, rng=rng)
    reduced = reduce_whole(image, side=64)
    return local_view(image, reduced, recipe, content_side=64, distorted=distorted, rng=rng)


def places_of(crop: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """Return where a crop lies in an image, pixel by pixel equal."""
    side = crop.shape[0]
    return [
        (top, left)
        for top in range(image.shape[0] - side + 1)
        for left in range(image.shape[1] - side + 1)
        if np.array_equal(image[top : top + side, left : left + side], crop)
    ]


def test_a_plain_crop_is_a_part_of_the_picture_as_it_is(image: np.ndarray) -> None:
    found = {places_of(view(image, PLAIN, seed=seed).crop, image)[0] for seed in range(12)}
    assert len(found) == 12, "crops lie everywhere"


def test_a_mirrored_crop_is_the_mirror_image_of_one(image: np.ndarray) -> None:
    crop = view(image, replace(PLAIN, flip_prob=1.0)).crop
    assert len(places_of(crop[:, ::-1], image)) == 1


def test_reduced_and_enlarged_crops_keep_their_side(image: np.ndarray) -> None:
    for recipe in (
        replace(PLAIN, reduce_prob=1.0),
        replace(PLAIN, enlarge_prob=1.0),
        replace(PLAIN, crop=200),  # larger than the picture, which is enlarged then
    ):
        for seed in range(4):
            crop = view(image, recipe, seed=seed).crop
            assert crop.shape == (recipe.crop, recipe.crop, 3)
            assert crop.dtype == np.uint8


def test_an_enlarged_crop_is_what_enlarging_the_whole_gives(image: np.ndarray) -> None:
    """Only the pixels that a crop needs are resized; away from its edge nothing differs."""
    from PIL import Image

    recipe = replace(PLAIN, crop=240)
    crop = view(image, recipe).crop.astype(int)
    whole = Image.fromarray(image).resize((300, 240), Image.Resampling.BICUBIC)
    off = [np.abs(crop - np.asarray(whole)[:, left : left + 240]).mean() for left in range(61)]
    assert min(off) < 1.0  # rounding, and the bicubic filter's reach at the edge


@pytest.mark.parametrize("size", [(120, 150), (600, 90), (40, 40), (512, 512)])
def test_the_whole_view_has_one_side_whatever_the_picture(size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    whole = view(image, replace(PLAIN, crop=32)).whole
    assert whole is not None
    assert whole.shape == (48, 48, 3)


def test_the_whole_view_loses_no_more_detail_than_its_crop(image: np.ndarray) -> None:
    """A picture whose short side is that of the crop cannot be reduced. Its whole view once lost
    what the drawn reduction would have lost."""
    reduced = replace(PLAIN, reduce_prob=1.0)
    for seed in range(4):
        small, plain = (view(image[:64, :64], recipe, seed=seed) for recipe in (reduced, PLAIN))
        assert np.array_equal(small.crop, plain.crop)
        assert np.array_equal(small.whole, plain.whole)
    large, plain = (
        view(image[:80, :80], replace(recipe, crop=32), seed=1) for recipe in (reduced, PLAIN)
    )
    assert not np.array_equal(large.whole, plain.whole)


def test_distorted_copies_come_in_pairs_the_second_the_stronger(image: np.ndarray) -> None:
    squares = 0
    for seed in range(30):
        shown = view(image, PLAIN, seed=seed, distorted=True)
        mild, strong = shown.copies
        assert 0 < mild.severity < strong.severity <= 1
        assert strong.severity - mild.severity >= 0.2
        for copy in shown.copies:
            changed = (copy.crop != shown.crop).any(2)
            if shown.square is None:
                continue
            top, left, side = (8 * number for number in shown.square)
            inside = np.zeros_like(changed)
            inside[top : top + side, left : left + side] = True
            assert not (changed & ~inside).any(), "outside the square nothing changes"
            assert np.array_equal(copy.whole, shown.whole)
        squares += shown.square is not None
    assert 8 <= squares <= 22  # half of them; a binomial share of 30 lies there with p > 0.99


def test_a_view_repeats_from_its_seed_and_does_not_depend_on_having_copies(
    image: np.ndarray,
) -> None:
    recipe = replace(PLAIN, reduce_prob=0.5, enlarge_prob=0.5, flip_prob=0.5)
    for seed in range(6):
        once, again = (view(image, recipe, seed=seed, distorted=True) for _ in range(2))
        plain = view(image, recipe, seed=seed)
        for other in (again, plain):
            assert np.array_equal(once.crop, other.crop)
            assert np.array_equal(once.whole, other.whole)
        assert np.array_equal(once.copies[1].crop, again.copies[1].crop)


def test_mirrored_views_are_the_image_or_its_mirror_image(image: np.ndarray) -> None:
    recipe = Recipe(views="mirror")
    seen = [view(image, recipe, seed=seed) for seed in range(20)]
    assert all(one.whole is None for one in seen)
    mirrored = [np.array_equal(one.crop, image[:, ::-1]) for one in seen]
    plain = [np.array_equal(one.crop, image) for one in seen]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True))
    assert 0 < sum(plain) < 20


def test_paper_views_turn_and_flip_as_often_as_published() -> None:
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    forms = {}
    for turns in range(4):
        for flip in (False, True):
            turned = np.rot90(image, turns)
            forms[(turned[::-1] if flip else turned).tobytes()] = (turns, flip)
    rng, n = np.random.default_rng(0), 4000
    seen = [forms[paper_turn(image, rng=rng).tobytes()] for _ in range(n)]
    turned = np.bincount([turns for turns, _ in seen], minlength=4) / n
    # Standard error of a share of 4,000 draws is below 0.008; the bounds are four of them.
    np.testing.assert_allclose(turned, [0.3, 0.231, 0.231, 0.238], atol=0.032)
    assert abs(np.mean([flip for _, flip in seen]) - 0.7) < 0.032


def test_views_stack_to_a_batch_of_pixels(image: np.ndarray) -> None:
    batch = stacked([image, image[:, ::-1]])
    assert batch.shape == (2, 3, 120, 150)
    assert batch[0, 1, 5, 7] == image[5, 7, 1]
