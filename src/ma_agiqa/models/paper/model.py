"""MA-AGIQA: one image and a few semantic vectors in, one quality score and its reasons out.

Source: paper figure 2; official models/MA_AGIQA.py.
Experts stand in the official order: semantic vectors first (the paper's meaning, then
coherence), the visual expert last. Kept from the official code: see `experts` and `fusion`.
What this file does not do: read images (`models/preprocess.py`), extract semantic vectors
(`lmm/encoder.py`), convert published weights (`convert.py`).

Shapes: B images, K semantic vectors, F their width, E = K + 1 experts, N = h x w patches,
D evidence width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ma_agiqa.errors import FeatureError, MissingExtraError, ModelError
from ma_agiqa.models.hub_mixin import HubModel
from ma_agiqa.models.mixture import GatedMixture, Mixture, SemanticProjection
from ma_agiqa.models.paper.visual import VisualExpert
from ma_agiqa.models.prediction import Prediction, QualityNetwork

PUBLISHED_BACKBONE = "vit_base_patch8_224.augreg_in21k_ft_in1k"
"""timm's name of the weights the paper starts from; the bare name means others today."""

_BLOCK = re.compile(r"^visual\.backbone\.vit\.blocks\.(\d+)\.")


class MAAGIQA(
    QualityNetwork,
    HubModel,
    library_name="ma-agiqa",
    tags=["image-quality-assessment", "ai-generated-images"],
):
    """The paper's network. The defaults are the paper's; all arguments are plain data.

    Args:
        semantics: how many semantic vectors come with an image; 0 gives the visual expert
            alone.
        semantic_width: their width.
        evidence_width: width in which experts meet; the number of patches if not given.
        gate: "linear" as published, "softmax" or "none".
        visual: arguments of `VisualExpert` where they differ from the paper's.
        dropout: rate after each semantic projection, while training.
    """

    def __init__(
        self,
        *,
        semantics: int = 2,
        semantic_width: int = 4096,
        evidence_width: int | None = None,
        gate: str = "linear",
        visual: Mapping[str, Any] | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.semantic_width = semantic_width
        self.visual = VisualExpert(**(visual or {}))
        patches = self.visual.grid**2
        evidence_width = patches if evidence_width is None else evidence_width
        self.semantic_projections = nn.ModuleList(
            SemanticProjection(features=semantic_width, width=evidence_width, dropout=dropout)
            for _ in range(semantics)
        )
        self.visual_projection = nn.Linear(patches, evidence_width)
        self.mixture = GatedMixture(experts=semantics + 1, width=evidence_width, gate=gate)

    def forward(self, images: Tensor, semantics: Tensor | None = None) -> Prediction:
        """Score a batch.

        Args:
            images: (B, 3, H, W) at the network's size, normalised to -1..1.
            semantics: (B, K, F), finite; None if and only if the network takes none.

        Raises:
            ImageError: images of another size.
            FeatureError: another number or width of vectors, or values that are not finite.
        """
        vectors = self.check_semantics(semantics, batch=images.shape[0])
        visual = self.visual(images)
        # The few numbers from here on are kept in the parameters' precision under autocast:
        # bfloat16 would round a score of 3.99 to 3.98.
        with torch.autocast(images.device.type, enabled=False):
            dtype = self.visual_projection.weight.dtype
            patches_BN = visual.evidence.to(dtype)
            evidence = [
                project(vector.to(dtype))
                for project, vector in zip(self.semantic_projections, vectors, strict=True)
            ]
            evidence_BED = torch.stack([*evidence, self.visual_projection(patches_BN)], dim=1)
            mixture = self.mixture(evidence_BED)
            return self.explain(patches_BN, mixture)

    def explain(self, patches_BN: Tensor, mixture: Mixture) -> Prediction:
        """Split the visual contribution over the patches it came from."""
        readout_D = self.mixture.readout.weight.squeeze(0)  # there is one
        visual_gate_B = mixture.gate[:, -1]
        per_patch_N = readout_D @ self.visual_projection.weight
        patch_contributions_BN = visual_gate_B[:, None] * per_patch_N * patches_BN
        map_size = (self.visual.grid, self.visual.grid)
        return Prediction(
            score=mixture.score,
            contributions=mixture.contributions,
            bias=mixture.bias,
            gate=mixture.gate,
            contribution_map=patch_contributions_BN.unflatten(1, map_size),
            map_constant=visual_gate_B * (readout_D @ self.visual_projection.bias),
        )

    def depth_of(self, name: str) -> int:
        """Return how deep a parameter lies: 0 above the vision transformer, 1 in its last block."""
        block = _BLOCK.search(name)
        if block:
            return len(self.visual.backbone.vit.blocks) - int(block.group(1))
        inside = name.startswith("visual.backbone.")
        return len(self.visual.backbone.vit.blocks) + 1 if inside else 0

    def load_backbone(self, source: str) -> None:
        """Fill the vision transformer.

        Args:
            source: `published` (fetched by timm), `random` (left as it is), or a safetensors file
                with timm's names.

        Raises:
            ModelError: the weights cannot be had or do not fit.
        """
        if source == "random":
            return
        vit = self.visual.backbone.vit
        weights = _published() if source == "published" else _from_file(Path(source))
        own = vit.state_dict()
        missing = sorted(own.keys() - weights.keys())
        wrong = sorted(k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape)
        if missing or wrong:
            raise ModelError(
                f"these are not weights of this vision transformer: {len(missing)} tensors "
                f"missing, {len(wrong)} of another shape, first {(missing + wrong)[0]}",
                path=source,
            )
        vit.load_state_dict({name: weights[name] for name in own})

    def check_semantics(self, semantics: Tensor | None, *, batch: int) -> tuple[Tensor, ...]:
        """Return the K vectors of shape (B, F), or refuse them.

        Whether values are finite is not checked inside `torch.compile`, which cannot branch
        on data without breaking the graph.
        """
        expected = (batch, len(self.semantic_projections), self.semantic_width)
        if semantics is None:
            if expected[1]:
                raise FeatureError(f"expected semantics of shape {expected}, found none")
            return ()
        if tuple(semantics.shape) != expected or not expected[1]:
            wanted = f"semantics of shape {expected}" if expected[1] else "no semantics"
            raise FeatureError(f"expected {wanted}, found shape {tuple(semantics.shape)}")
        if not torch.compiler.is_compiling() and not bool(semantics.isfinite().all()):
            rows = (~semantics.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            raise FeatureError(
                f"expected finite semantics, found NaN or infinity in rows {rows} of the batch",
                remedy="extract the features of those images again",
            )
        return semantics.unbind(1)


def _published() -> Mapping[str, Tensor]:
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "paper") from error
    try:
        weights: Mapping[str, Tensor] = timm.create_model(
            PUBLISHED_BACKBONE, pretrained=True
        ).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"the published weights cannot be fetched: {error}",
            path=PUBLISHED_BACKBONE,
            remedy="--backbone FILE.safetensors, or --backbone random",
        ) from error
    return weights


def _from_file(path: Path) -> Mapping[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot be read as safetensors: {error}", path=path) from error
