"""MA-AGIQA: one image and a few semantic vectors in, one quality score and its reasons out.

Source: paper figure 2; official models/MA_AGIQA.py.
Experts stand in the official order: semantic vectors first (the paper's meaning, then
coherence), the visual expert last. Kept from the official code: see `experts` and `fusion`.
What this file does not do: read images (`transforms.py`), extract semantic vectors
(`experts/semantic.py`), convert published weights (`convert.py`).

Shapes: B images, K semantic vectors, F their width, E = K + 1 experts, N = h x w patches,
D evidence width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ma_agiqa.errors import FeatureError
from ma_agiqa.experts.visual import VisualExpert
from ma_agiqa.fusion import GatedMixture, SemanticProjection


class Assessment(NamedTuple):
    """What the network says about a batch; scores are on the scale it was trained on.

    Attributes:
        score: (B,), unbounded.
        gate: weight of each expert, (B, E), experts in order, visual last.
        contributions: what each expert adds, (B, E); with `bias` they sum to `score`.
        bias: what the readout adds whatever the image, (B,).
        patch_quality: the visual evidence f = s * w as a map, (B, h, w).
        patch_contributions: what each patch adds to the visual contribution, (B, h, w).
            Exact as arithmetic, approximate as geography: the scrambled attention residual
            mixes places.
        patch_constant: the rest of the visual contribution, (B,).
    """

    score: Tensor
    gate: Tensor
    contributions: Tensor
    bias: Tensor
    patch_quality: Tensor
    patch_contributions: Tensor
    patch_constant: Tensor


class MAAGIQA(nn.Module):
    """The paper's network. The defaults are the paper's; all arguments are plain data.

    Args:
        semantics: how many semantic vectors come with an image; 0 gives the visual expert
            alone.
        semantic_width: their width.
        evidence_width: width in which experts meet; the number of patches if not given.
        gate: "linear" as published, or "softmax".
        image_size ... drop_path: see `VisualExpert`.
    """

    def __init__(
        self,
        *,
        semantics: int = 2,
        semantic_width: int = 4096,
        evidence_width: int | None = None,
        gate: str = "linear",
        image_size: int = 224,
        patch_size: int = 8,
        width: int = 768,
        heads: int = 12,
        taps: Sequence[int] = (6, 7, 8, 9),
        attentions: int = 2,
        stage_widths: Sequence[int] = (768, 384),
        window: int = 4,
        window_heads: int = 4,
        window_mlp: int = 768,
        window_depths: Sequence[int] = (2, 2),
        scale: float = 0.8,
        dropout: float = 0.1,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        self.semantic_width = semantic_width
        self.visual = VisualExpert(
            image_size=image_size,
            patch_size=patch_size,
            width=width,
            heads=heads,
            taps=taps,
            attentions=attentions,
            stage_widths=stage_widths,
            window=window,
            window_heads=window_heads,
            window_mlp=window_mlp,
            window_depths=window_depths,
            scale=scale,
            dropout=dropout,
            drop_path=drop_path,
        )
        patches = self.visual.grid**2
        evidence_width = patches if evidence_width is None else evidence_width
        self.semantic_projections = nn.ModuleList(
            SemanticProjection(features=semantic_width, width=evidence_width, dropout=dropout)
            for _ in range(semantics)
        )
        self.visual_projection = nn.Linear(patches, evidence_width)
        self.mixture = GatedMixture(experts=semantics + 1, width=evidence_width, gate=gate)

    def forward(
        self,
        images: Tensor,
        semantics: Tensor | None = None,
        stages: dict[str, Tensor] | None = None,
    ) -> Assessment:
        """Score a batch.

        Args:
            images: (B, 3, H, W) at the network's size, normalised to -1..1.
            semantics: (B, K, F), finite; None if and only if the network takes none.
            stages: where to put the output of every stage by name; for tests.

        Raises:
            ImageError: images of another size.
            FeatureError: another number or width of vectors, or values that are not finite.
        """
        vectors = self.check_semantics(semantics, batch=images.shape[0])
        visual = self.visual(images, stages)
        # The few numbers from here on are kept in the parameters' precision under autocast:
        # bfloat16 would round a score of 3.99 to 3.98.
        with torch.autocast(images.device.type, enabled=False):
            dtype = self.visual_projection.weight.dtype
            patches_BN = visual.evidence.to(dtype)
            evidence = [
                project(vector.to(dtype))
                for project, vector in zip(self.semantic_projections, vectors, strict=True)
            ]
            evidence.append(self.visual_projection(patches_BN))
            mixture = self.mixture(torch.stack(evidence, dim=1))
            assessment = self.explain(patches_BN, mixture.score, mixture.gate, mixture.contributions)
        if stages is not None:
            stages["quality"], stages["weight"], stages["patches"] = visual
            stages["evidence"] = torch.stack(evidence, dim=1)
            stages["gate"], stages["blend"] = mixture.gate, mixture.blend
        return assessment
