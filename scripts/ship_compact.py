"""Put a finished training run into the package as the `compact` model.

    python scripts/ship_compact.py RUN --reports benchmarks/results/evaluate_compact_*.json

Copies RUN/model to src/ma_agiqa/assets/compact and writes the model card anew, with every
figure read from the reports that `ma-agiqa evaluate --json` wrote. Nothing is typed by hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ma_agiqa import checkpoints
from ma_agiqa.presets import MODELS

FIGURES = ("srcc", "plcc_raw", "plcc_fitted", "krcc", "rmse_fitted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--reports", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    model, config = checkpoints.load(options.run / "model")
    written = (options.run / "model" / checkpoints.CARD).read_text(encoding="utf-8")
    history = [json.loads(line) for line in (options.run / "log.jsonl").open(encoding="utf-8")]
    trained = config.trained_on
    assert trained is not None, "a model of a training run knows its training set"
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in options.reports]
    highest = trained.score_quantiles[-1]
    card = written.split("```", 1)[0] + sections(history, reports, highest=highest)
    directory = MODELS["compact"].directory
    assert directory is not None
    checkpoints.save(directory, model, config, card=card)
    print(directory)


def sections(
    history: list[dict[str, Any]], reports: list[dict[str, Any]], *, highest: float
) -> str:
    """Return the parts of the card that only a finished, evaluated run can fill."""
    hours = sum(line["seconds"] for line in history) / 3600
    own = next(r for r in reports if r["model"] == "compact" and r["split"] == "paper")
    machine = own["environment"]["hardware"]
    return f"""- Training took {hours:.2f} hours for {len(history)} epochs on {machine}.

## Measured

95 % bootstrap intervals in brackets. The IPCE rows are other weights: each was trained anew
on that split's own training part, with `--recipe compact-quick --set recalibrate=0`.

{figures(reports)}

Within each generator of the paper split's test part:

{generators(own)}

## Intended use

Ranking and filtering AI-generated images of about 512 x 512 pixels by how good they look.

## Limits

- It sees distortion and texture, not meaning: nothing in it tells six fingers from five.
- It has seen six generators, up to 2023; later ones look different, and their scores are less
  sure.
- People rated on a nominal scale of 0 to 5; their scores of the training images end at
  {highest:.2f}. Scores are predictions of a mean opinion, not a probability.
- It is not a measure for photographs, text, or agreement with a prompt.

```
ma-agiqa score pictures/
```
"""


def figures(reports: list[dict[str, Any]]) -> str:
    lines = ["| split:part | n | SRCC | PLCC raw | PLCC fitted | KRCC | RMSE fitted |"]
    lines.append("|---|---|---|---|---|---|---|")
    for report in reports:
        cells = [
            "{value:.4f} [{low:.4f}, {high:.4f}]".format(**report["metrics"][name])
            for name in FIGURES
        ]
        where = f"{report['split']}:{report['part']}"
        lines.append(f"| {where} | {report['n']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def generators(report: dict[str, Any]) -> str:
    lines = ["| generator | n | SRCC | mean MOS | mean prediction |", "|---|---|---|---|---|"]
    for row in report["groups"]["generator"]:
        numbers = f"{row['srcc']:.4f} | {row['mean_mos']:.3f} | {row['mean_pred']:.3f}"
        lines.append(f"| {row['value']} | {row['n']} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
