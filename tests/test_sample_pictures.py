"""The sample pictures are what the script renders, complete and small."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ma_agiqa.images import read_image

REPOSITORY = Path(__file__).resolve().parent.parent
PICTURES = REPOSITORY / "examples" / "pictures"


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import render_samples

    yield render_samples
    sys.modules.pop("render_samples", None)


def test_rendering_a_scene_again_gives_the_committed_pictures(samples: ModuleType) -> None:
    rendered = samples.render("weave")
    assert len(rendered) == 3
    for file, (picture, quality) in rendered.items():
        committed = read_image(PICTURES / file)
        again = read_image(samples.encode(picture, quality))
        # The same file here. Another libm or JPEG library may round a value differently, and one
        # coefficient then moves its 8 x 8 block a little; another scene differs by tens.
        assert abs(committed.astype(int) - again).mean() < 0.5


def test_each_scene_has_a_clean_picture_and_two_degraded_ones(samples: ModuleType) -> None:
    names = sorted(path.name for path in PICTURES.iterdir())
    expected = [
        f"{scene}_{step}.jpg"
        for scene, (_, distortion, *_) in sorted(samples.SCENES.items())
        for step in ("0-clean", f"1-{distortion.__name__}", f"2-heavy-{distortion.__name__}")
    ]
    assert names == expected
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) <= 1_500_000


def test_the_heavier_step_is_further_from_the_clean_picture(samples: ModuleType) -> None:
    for scene, (_, distortion, *_) in samples.SCENES.items():
        how = distortion.__name__
        clean, light, heavy = (
            read_image(PICTURES / f"{scene}_{step}.jpg").astype(float)
            for step in ("0-clean", f"1-{how}", f"2-heavy-{how}")
        )
        assert clean.shape == (samples.SIZE, samples.SIZE, 3)
        # Root mean square difference in 8-bit steps: visible, and clearly more when heavy.
        near, far = (np.sqrt(((picture - clean) ** 2).mean()) for picture in (light, heavy))
        assert near > 2
        assert far > 1.3 * near
