"""Draw the sample pictures with their scores and quality maps: the picture in the README.

    python scripts/draw_demo.py --out docs/images/demo.png

One row per scene: the clean picture and its two degraded versions, each with its score and
percentile, then the local scores of the last one. Needs matplotlib (extra `train`).
"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path

import ma_agiqa
from ma_agiqa.images import read_image

PICTURES = Path(__file__).resolve().parent.parent / "examples/pictures"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    scorer = ma_agiqa.load("compact")
    files = sorted(PICTURES.glob("*.jpg"))
    scenes = [list(group) for _, group in groupby(files, key=lambda p: p.name.split("_")[0])]
    figure, axes = pyplot.subplots(
        len(scenes), 4, figsize=(9, 2.45 * len(scenes)), layout="constrained"
    )
    for row, scene in zip(axes, scenes, strict=True):
        for axis, path in zip(row, scene, strict=False):
            score = scorer(path, explain=True)
            axis.imshow(read_image(path))
            kind = path.stem.partition("-")[2]
            axis.set_title(f"{kind}: {score.score:.2f} ({score.percentile:.0f} %)", fontsize=9)
        shown = row[3].imshow(score.quality_map, vmin=score.low, vmax=score.high, cmap="RdYlGn")
        row[3].set_title(f"where the {score.score:.2f} comes from", fontsize=9)
        for axis in row:
            axis.set_axis_off()
    figure.colorbar(shown, ax=axes[:, 3], label="local score, 0 (bad) to 5 (excellent)", shrink=0.4)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=80)
    print(options.out)


if __name__ == "__main__":
    main()
