"""Mixture of experts over quality evidence.

Experts describe the same image; a gate weighs them and the weighted sum is read out as one
score. Everything after the gate is linear, so the score splits exactly into one contribution
per expert plus a bias. A mixture may have several readouts, which are blended image by image.

Source: paper section 3.3; official models/MA_AGIQA.py.
Kept from the official code: the gate is linear, without softmax, so weights may be negative
and need not sum to one; semantic evidence passes ReLU and dropout, visual evidence neither.
Ours: as named options `gate="softmax"`, and `gate="none"`, by which each of E experts weighs
1 / E whatever the image; a mixture of one expert has no gate, its weight is 1.

Shapes: B images, E experts, D evidence width, F feature width, R readouts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ma_agiqa.errors import UsageError

GATES = ("linear", "softmax", "none")


class Mixture(NamedTuple):
    """A score and where it comes from.

    Attributes:
        score: (B,), `contributions.sum(1) + bias` up to rounding.
        gate: weight of each expert, (B, E).
        contributions: what each expert adds to the score, (B, E).
        blend: weighted sum of the evidence, (B, D).
        bias: what the readout adds whatever the evidence, (B,).
        readout: the weights of the evidence, (B, D).
        scores: by each readout alone, (B, R).
    """

    score: Tensor
    gate: Tensor
    contributions: Tensor
    blend: Tensor
    bias: Tensor
    readout: Tensor
    scores: Tensor


class SemanticProjection(nn.Sequential):
    """Turn one semantic vector into evidence: (B, F) -> (B, D)."""

    def __init__(self, *, features: int, width: int, dropout: float) -> None:
        super().__init__(nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout))


class GatedMixture(nn.Module):
    """Blend E evidence vectors into one scalar per image.

    Args:
        readouts: R.
    """

    def __init__(
        self, *, experts: int, width: int, gate: str = "linear", readouts: int = 1
    ) -> None:
        super().__init__()
        if min(experts, width, readouts) < 1:
            raise ValueError(f"sizes must be positive, got {experts=} {width=} {readouts=}")
        if gate not in GATES:
            raise UsageError(f"unknown gate {gate!r}", remedy=f"choose from {', '.join(GATES)}")
        self.normalise = gate == "softmax"
        gated = experts > 1 and gate != "none"
        self.gate = nn.Linear(experts * width, experts) if gated else None
        self.readout = nn.Linear(width, readouts)

    def forward(self, evidence_BED: Tensor, readout_BR: Tensor | None = None) -> Mixture:
        """Return one unbounded score per image and its parts.

        Args:
            readout_BR: how much each readout counts, summing to one per image; needed where
                there are several.
        """
        if self.gate is None:
            gate_BE = evidence_BED.new_full(evidence_BED.shape[:2], 1 / evidence_BED.shape[1])
        else:
            gate_BE = self.gate(evidence_BED.flatten(1))
            if self.normalise:
                gate_BE = gate_BE.softmax(dim=1)
        blend_BD = torch.einsum("be,bed->bd", gate_BE, evidence_BED)
        scores_BR = self.readout(blend_BD)
        if readout_BR is None:
            readout_BR = torch.ones_like(scores_BR)
        readout_BD = readout_BR @ self.readout.weight
        return Mixture(
            score=(readout_BR * scores_BR).sum(1),
            gate=gate_BE,
            contributions=gate_BE * torch.einsum("bed,bd->be", evidence_BED, readout_BD),
            blend=blend_BD,
            bias=readout_BR @ self.readout.bias,
            readout=readout_BD,
            scores=scores_BR,
        )
