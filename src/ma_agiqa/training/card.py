"""The model card that a training run writes beside its weights.

It says what was trained on what and how validation went. Figures on a test part are not
known here: `ma-agiqa evaluate` measures them, and whoever publishes the model adds them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ma_agiqa.config import ModelConfig
from ma_agiqa.data.splits import Split
from ma_agiqa.lmm.encoder import fingerprint_of
from ma_agiqa.training.recipe import Recipe
from ma_agiqa.training.record import in_words


def training_card(
    config: ModelConfig,
    recipe: Recipe,
    best: dict[str, Any],
    split: Split,
    *,
    backbone: str | None = None,
) -> str:
    """Return the card's text (Markdown with the Hub's metadata block).

    Args:
        backbone: where the weights of the vision transformer came from; None without one.
        best: the log line of the epoch whose weights the card goes with, or of the fit.
    """
    assert config.trained_on is not None, "a trained model knows its training set"
    trained = config.trained_on
    semantics = ""
    if config.questions:
        semantics = (
            f"- Semantic vectors: questions {', '.join(config.questions)}, encoder\n"
            f"  `{fingerprint_of(config.encoder)}` ({config.encoder.get('encoder', 'unnamed')}).\n"
        )
    start = "from random initial weights"
    if "started_from" in config.training:
        start = "fine-tuned, see below"
    if backbone not in (None, "random"):
        start += f" but for its trunk, which started from ImageNet weights ({backbone})"
    selected = f"{len(split.val)} images"
    if "data_sets" in config.training:
        selected = "the mean over the data sets"
    chosen = f"Validation part ({selected}), which chose nothing in this run"
    if "epoch" in best:
        chosen = f"Selected on the validation part ({selected}): epoch {best['epoch']}"
    source = " --lmm mplug-owl2" if config.questions else ""
    settings = ", ".join(f"{k} {v}" for k, v in dataclasses.asdict(recipe).items())
    return f"""---
library_name: ma-agiqa
license: apache-2.0
tags: [image-quality-assessment, ai-generated-images]
---
# {config.name}

Predicts the mean opinion score that people would give an AI-generated image, on the scale
{config.scale.low:g} to {config.scale.high:g} (higher is better).

- Architecture: `{config.architecture}`, {start}.
- Training data: {trained.dataset}, target `{trained.target}`, split `{trained.split}`,
  {trained.images} images. {split.protocol}.
  {" ".join(split.caveats)}
{in_words(config.training)}{semantics}- Recipe: {settings}.
- {chosen}, SRCC {best["srcc"]:.4f}, raw PLCC
  {best["plcc_raw"]:.4f}. The split that selects is not the one that reports: see the
  evaluation of the test part.
- Versions: {", ".join(f"{k} {v}" for k, v in config.versions.items())}; commit {config.commit}.

```
ma-agiqa score --model DIRECTORY{source} pictures/
```
"""
