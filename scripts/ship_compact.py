"""Put a finished fit into the package as the `compact` model.

    python scripts/ship_compact.py RUN --report benchmarks/results/evaluate_compact_paper.json \\
        --grid runs/agiqa-3k/results.json

Copies RUN/model to src/ma_agiqa/assets/compact and writes the model card anew, with every
figure read from the report that `ma-agiqa evaluate --json` wrote and from the grid's cells of
`compact` on the prompt-disjoint splits. Nothing is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from ma_agiqa import checkpoints
from ma_agiqa.presets import MODELS
from ma_agiqa.training.fitting import FITTED

FIGURES = ("srcc", "plcc_raw", "plcc_fitted", "krcc", "rmse_fitted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--grid", type=Path, required=True)
    options = parser.parse_args()
    model, config = checkpoints.load(options.run / "model")
    written = (options.run / "model" / checkpoints.CARD).read_text(encoding="utf-8")
    line = json.loads((options.run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    trained = config.trained_on
    assert trained is not None, "a fitted model knows its training set"
    paper = json.loads(options.report.read_text(encoding="utf-8"))
    disjoint = reports_of(json.loads(options.grid.read_text(encoding="utf-8")))
    highest = trained.score_quantiles[-1]
    alone = (options.run / FITTED).is_dir()
    shared = (
        ""
        if alone
        else ";\n  descriptions of the pictures, shared with other runs, may not be in it"
    )
    text = sections(line, paper, disjoint, highest=highest, shared=shared)
    directory = MODELS["compact"].directory
    assert directory is not None
    checkpoints.save(directory, model, config, card=written.split("```", 1)[0] + text)
    print(directory)


def reports_of(grid: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the reports of `compact` on the prompt-disjoint splits, in order."""
    cells = [cell for cell in grid["cells"] if cell["model"] == "compact"]
    own = [cell["judgements"][0]["report"] for cell in cells]
    return [report for report in own if report["split"].startswith("ipce-")]


def sections(
    line: dict[str, Any],
    paper: dict[str, Any],
    disjoint: list[dict[str, Any]],
    *,
    highest: float,
    shared: str,
) -> str:
    """Return the parts of the card that only a finished, evaluated fit can fill."""
    machine = paper["environment"]["hardware"]
    srcc = [report["metrics"]["srcc"]["value"] for report in disjoint]
    minutes = line["seconds"] / 60
    return f"""- The run took {minutes:.0f} minutes on {machine}, other work beside it{shared}.

## Measured

95 % bootstrap intervals in brackets. The IPCE rows are other weights: each was fitted anew on
that split's own training part by the same recipe. Their mean SRCC is {statistics.mean(srcc):.4f},
from {min(srcc):.4f} to {max(srcc):.4f}, standard deviation {statistics.stdev(srcc):.4f}.

{figures([paper, *disjoint])}

Within each generator of the paper split's test part:

{generators(paper)}

## Intended use

Ranking and filtering AI-generated images by how good they look. People rated pictures of 512 x 512
pixels; views down to a third of that took part in the fit with the same scores.

## Limits

- It sees distortion and texture, not meaning: nothing in it tells six fingers from five.
- It has seen six generators, up to 2023. What is like none of them gets a score near the average
  or somewhat below it, and a less sure one.
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
