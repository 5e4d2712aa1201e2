"""An explained image: the map lies where the damage is, the words say the score."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ma_agiqa.gallery.picture import (
    LINE,
    VIRIDIS,
    between,
    colours,
    explained,
    headline,
    map_ends,
    overlay,
    png,
    subline,
    told,
)
from ma_agiqa.types import Score

RGB_IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def scored(**changes: object) -> Score:
    quality = np.tile(np.linspace(2.9, 3.1, 12, dtype=np.float32), (8, 1))
    quality += np.linspace(-0.1, 0.1, 8, dtype=np.float32)[:, None]  # no place repeats another
    quality[:4, :6] -= 2.0
    given = {
        "path": "a.png",
        "score": 2.5,
        "percentile": 40.0,
        "low": 0.0,
        "high": 5.0,
        "model": "tiny",
        "contributions": {"content": 0.5, "distortion": -0.25, "bias": 2.25},
        "quality_map": quality,
        "contribution_map": quality / 96,
    }
    return Score(**{**given, **changes})  # type: ignore[arg-type]


def test_the_words_are_the_score_and_what_misleads() -> None:
    assert headline(scored()) == "2.50 of 0 to 5, above 40 % of the pictures that people rated"
    assert headline(scored(percentile=None)) == "2.50 of 0 to 5"
    assert headline(scored(score=None, error="is empty")) == "no score"
    said = subline(scored(path="a\nb\x1b.png", hint="enlarged"))
    assert said == "a b\\x1b.png  -  tiny  -  enlarged"


def test_the_interval_is_drawn_on_a_line_of_its_own() -> None:
    score = scored(interval=(1.95, 3.05))
    said = "interval 1.95 to 3.05, for 80 % of pictures like those validated on"
    assert between(score) == said
    assert between(scored()) is None
    assert explained(RGB_IMAGE, score).height == explained(RGB_IMAGE, scored()).height + LINE
    assert said in str(score._repr_html_())
    assert "interval" not in str(scored()._repr_html_())


def test_colours_run_from_bad_to_good_in_brightness() -> None:
    ramp = colours(np.linspace(0, 1, 256, dtype=np.float32))
    assert tuple(ramp[0]) == VIRIDIS[0]
    assert tuple(ramp[-1]) == VIRIDIS[-1]
    brightness = ramp @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(brightness) > -1).all()  # up to rounding of 8 bits: readable in grey too


def test_the_overlay_is_dark_where_quality_is_low() -> None:
    score = scored()
    assert score.quality_map is not None
    grey = Image.fromarray(np.full((64, 96, 3), 128, np.uint8))
    laid = np.asarray(overlay(grey, score.quality_map, map_ends(score))).astype(int).sum(2)
    assert laid.shape == (64, 96)
    assert laid[4:20, 4:36].max() < laid[44:, 60:].min()


def test_places_that_repeat_what_lies_further_in_are_not_drawn() -> None:
    quality = np.random.default_rng(0).uniform(1, 4, (20, 28)).astype(np.float32)
    assert (np.asarray(told(quality)) == 255).all()
    bordered = np.pad(quality[3:-3, 3:-3], 3, mode="edge")
    where = np.zeros((20, 28), np.uint8)
    where[3:-3, 3:-3] = 255
    np.testing.assert_array_equal(np.asarray(told(bordered)), where)
    laid = np.asarray(overlay(Image.fromarray(RGB_IMAGE), bordered, (1, 4)))
    plain = np.asarray(Image.fromarray(RGB_IMAGE).convert("L").convert("RGB"))
    untouched = (laid == plain).all(2)
    assert untouched[:9].all()
    assert untouched[:, -10:].all()
    assert not untouched[10:-10, 11:-11].all()
    assert np.asarray(told(np.full((9, 4), 2.0, np.float32))).any()


def test_the_ends_of_a_flat_map_are_a_fifth_of_the_scale_apart() -> None:
    low, high = map_ends(scored(quality_map=np.full((4, 4), 2.0, np.float32)))
    assert (low, high) == pytest.approx((1.5, 2.5))
    assert map_ends(scored(quality_map=None, contribution_map=None)) == (0.0, 5.0)


@pytest.mark.parametrize("rgb", [RGB_IMAGE, None, np.zeros((3000, 40, 3), np.uint8)])
@pytest.mark.parametrize(
    "score",
    [
        scored(),
        scored(quality_map=None),
        scored(quality_map=None, contribution_map=None, contributions=None),
        scored(score=None, error="e" * 500, contributions=None, quality_map=None),
    ],
    ids=["whole", "contributions of places", "score alone", "error"],
)
def test_whatever_is_there_is_drawn(rgb: np.ndarray | None, score: Score) -> None:
    drawn = explained(rgb, score)
    assert 560 <= drawn.width <= 1200
    again = Image.open(io.BytesIO(png(drawn)))
    np.testing.assert_array_equal(np.asarray(again), np.asarray(drawn))
    assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 10


def test_a_notebook_shows_an_explained_score_and_only_that(tmp_path: Path) -> None:
    Image.fromarray(RGB_IMAGE).save(tmp_path / "a.png")
    shown = scored(path=str(tmp_path / "a.png"))._repr_html_()
    assert shown is not None
    assert 'alt="2.50 of 0 to 5' in shown
    data = base64.b64decode(shown.partition("base64,")[2].partition('"')[0])
    with_picture = Image.open(io.BytesIO(data)).size
    without = scored(path="image[0]")._repr_html_()
    assert without is not None
    data = base64.b64decode(without.partition("base64,")[2].partition('"')[0])
    assert Image.open(io.BytesIO(data)).size != with_picture
    assert "<b>" not in str(scored(path="<b>")._repr_html_())
    assert scored(contributions=None)._repr_html_() is None
