"""Draw the picture of the README: sample pictures, where their scores come from, and who says so.

    python scripts/draw_demo.py --out docs/images/demo.png

One column per picture: a clean sample, the same with one square blurred, and its noisy version.
Below each the quality map of the distortion expert, and what each expert adds to the score. Needs
matplotlib (extra `train`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import ma_agiqa
from ma_agiqa.images import read_image
from ma_agiqa.models.preprocess import to_chw, to_unit
from ma_agiqa.training.distortions import distort

PICTURES = Path(__file__).resolve().parent.parent / "examples/pictures"
SQUARE = np.s_[160:352, 288:480]  # rows and columns, in pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    scorer = ma_agiqa.load("compact")
    clean = read_image(PICTURES / "lake_0-clean.jpg")
    pictures = {
        "clean": clean,
        "one square blurred": with_blurred_square(clean),
        "heavy noise": read_image(PICTURES / "lake_2-heavy-noise.jpg"),
        "enlarged": read_image(PICTURES / "flower_2-heavy-upscale.jpg"),
    }
    figure, axes = pyplot.subplots(
        3, len(pictures), figsize=(11, 7.2), layout="constrained", height_ratios=[3, 3, 1.3]
    )
    for axis in axes[2, 1:]:
        axis.set_yticks([])
    for (name, rgb), (picture, places, bars) in zip(pictures.items(), axes.T, strict=True):
        score = scorer(rgb, explain=True)
        assert score.contributions is not None
        picture.imshow(rgb)
        picture.set_title(f"{name}\n{score.score:.2f}, better than {score.percentile:.0f} %")
        picture.set_axis_off()
        shown = places.imshow(score.quality_map, vmin=score.low, vmax=score.high, cmap="cividis")
        places.set_axis_off()
        names = [key for key in score.contributions if key != "bias"]
        values = [score.contributions[key] for key in names]
        bars.barh([0, 1], values, color=["#b8860b" if v < 0 else "#00437a" for v in values])
        bars.axvline(0, color="black", linewidth=0.8)
        bars.set_xlim(-2.5, 2.5)
        if bars is axes[2, 0]:
            bars.set_yticks([0, 1], names)
        bars.set_xlabel(f"added to {score.contributions['bias']:.2f}", fontsize=9)
        bars.spines[["top", "right"]].set_visible(False)
    figure.colorbar(
        shown, ax=axes[1, -1], label="quality of each place, 0 (bad) to 5 (excellent)", shrink=0.9
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=90)
    print(options.out)


def with_blurred_square(rgb: np.ndarray) -> np.ndarray:
    blurred = distort(to_unit(to_chw(rgb)), "blur", 0.8, seed=0)
    changed = rgb.copy()
    changed[SQUARE] = (blurred * 255).round().byte().permute(1, 2, 0).numpy()[SQUARE]
    return changed


if __name__ == "__main__":
    main()
