"""A network that was exported to ONNX, run by onnxruntime: the same inputs, the same `Prediction`.

`export/graph.py` writes the file. Each image is computed on the one thread that asks for it: a
scorer has several images side by side, and none depends on another.

What this file does not do: gradients, devices other than a CPU, or preparing images.

Shapes: B images, H, W pixels, H', W' those of the reduced copy, E experts, R readouts, h, w rows
and columns of a map.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ma_agiqa.errors import MissingExtraError, ModelError, UsageError, first_line
from ma_agiqa.models.compact.model import content_view
from ma_agiqa.models.prediction import Prediction, QualityNetwork

INPUTS = ("images", "whole")
SHAPES = {
    "score": "B",
    "contributions": "BE",
    "bias": "B",
    "gate": "BE",
    "contribution_map": "Bhw",
    "map_constant": "B",
    "weight_map": "Bhw",
    "scores": "BR",
    "likeness": "BR",
}
"""Of what a graph gives, by the name of a field of `Prediction`; a letter has one size."""

REMEDY = "export it again with `ma-agiqa export`"


class ExportedNetwork(QualityNetwork):
    """Run the graph in a file.

    Args:
        path: of the ONNX file.
        network: what it was exported from, without weights.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: the file is damaged, or holds another graph.
    """

    alone = True
    exported = True

    def __init__(self, path: Path, network: QualityNetwork) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "onnx") from error
        super().__init__()
        self.path, self.experts = path, network.experts
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # pictures differ in size
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            self.session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # onnxruntime has a class of its own for each status
            raise ModelError(
                f"onnxruntime cannot read it: {first_line(error)}", path=path, remedy=REMEDY
            ) from error
        inputs = tuple(one.name for one in self.session.get_inputs())
        self.outputs = [one.name for one in self.session.get_outputs()]
        needed = {field for field in Prediction._fields if field not in Prediction._field_defaults}
        if (
            inputs != INPUTS
            or network.content_side is None
            or not needed <= set(self.outputs) <= set(Prediction._fields)
        ):
            raise ModelError("is not an exported model of this package", path=path, remedy=REMEDY)
        self.content_side: int = network.content_side

    def forward(self, images: Tensor, whole: Tensor | None = None) -> Prediction:
        """Score images (B, 3, H, W) in [0, 1].

        Args:
            whole: the reduced copy, (B, 3, H', W'); made from `images` when None.

        Raises:
            UsageError: gradients are asked for.
            ModelError: the graph does not run on them.
        """
        if images.requires_grad and torch.is_grad_enabled():
            raise UsageError(
                "an exported model gives no gradients",
                remedy="load the model that it was exported from",
            )
        whole = content_view(images, side=self.content_side) if whole is None else whole
        pixels = {"images": images.detach().numpy(), "whole": whole.detach().numpy()}
        try:
            found = self.session.run(self.outputs, pixels)
        except Exception as error:
            if "allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise ModelError(
                f"onnxruntime cannot run it: {first_line(error)}", path=self.path, remedy=REMEDY
            ) from error
        self._require_shapes(found, count=len(images))
        return Prediction(**dict(zip(self.outputs, map(torch.from_numpy, found), strict=True)))

    def _require_shapes(self, found: list[Any], *, count: int) -> None:
        """Refuse what a damaged or foreign graph gives, before anything is made of it."""
        sizes = {"B": count, "E": len(self.experts)}
        for name, values in zip(self.outputs, found, strict=True):
            letters = SHAPES[name]
            shape = getattr(values, "shape", None)
            if shape is not None and len(shape) == len(letters):
                expected = tuple(sizes.setdefault(*one) for one in zip(letters, shape, strict=True))
                if values.dtype == np.float32 and shape == expected and 0 not in shape:
                    continue
            kind = type(values).__name__ if shape is None else f"{values.dtype} {shape}"
            raise ModelError(
                f"gives {kind} for {name}, expected float32 ({', '.join(letters)})",
                path=self.path,
                remedy=REMEDY,
            )
