"""`compact` as one ONNX graph, for pictures of any size and any number of them.

    inputs    images (B, 3, H, W) in [0, 1], and whole (B, 3, H', W'), their `content_view`
    outputs   the fields of `Prediction`, by their names

Decoding and resizing stay outside: the exporter of torch gets an antialiased resize wrong. Weights
that lose nothing in float16 are stored in it; they are float32 again before anything is computed.

What this file does not do: run the graph (`models/exported.py`).

Shapes: B images, C channels, H, W pixels, h, w places, n values before and m after pooling.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ma_agiqa.errors import ModelError, first_line, require
from ma_agiqa.models.compact.model import CompactModel, content_view
from ma_agiqa.models.exported import INPUTS

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.onnx import ONNXProgram

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What an export needs: the last to try the graph."""
OPSET = 18
NEWER = "pip install --upgrade torch onnxscript onnxruntime"
EXAMPLE = (2, 3, 208, 272)
"""Shape of the images that the exporter follows through the network; no two sides alike."""

DYNAMIC = (
    {0: "batch", 2: "height", 3: "width"},
    {0: "batch", 2: "whole_height", 3: "whole_width"},
)


class _Graph(nn.Module):
    def __init__(self, network: CompactModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, whole: Tensor) -> list[Tensor]:
        return [field for field in self.network(images, whole) if field is not None]


def to_program(network: CompactModel) -> ONNXProgram:
    """Follow the network, in eval mode on a CPU, with torch's exporter.

    Raises:
        MissingExtraError: one of `PACKAGES` is not installed.
        ModelError: this version of torch cannot export it.
    """
    require("onnx", *PACKAGES)
    import onnxscript

    op: Any = onnxscript.opset18

    def adaptive_avg_pool2d(features: Any, size: Sequence[Any]) -> Any:
        """Pool (B, C, n, n) by a product with a matrix on each side.

        Its own translation is right for the parity of the example's sides only.
        """
        zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
        last = op.Constant(value_ints=[1])  # axis of a matrix

        def means(axis: int, after: Any) -> Any:
            before = op.Shape(features, start=axis, end=axis + 1)
            after = op.Reshape(after, op.Constant(value_ints=[-1]))
            place_m1 = op.Unsqueeze(op.Range(zero, op.Squeeze(after), one), last)
            value_n = op.Range(zero, op.Squeeze(before), one)
            # Place i has the values from floor(i n / m) up to before ceil((i + 1) n / m).
            from_mn = op.Greater(op.Mul(op.Add(value_n, one), after), op.Mul(place_m1, before))
            up_to_mn = op.Less(op.Mul(value_n, after), op.Mul(op.Add(place_m1, one), before))
            has_mn = op.CastLike(op.And(from_mn, up_to_mn), features)
            return op.Div(has_mn, op.ReduceSum(has_mn, last))

        rows_mn, columns_nm = means(2, size[0]), op.Transpose(means(3, size[1]), perm=[1, 0])
        return op.MatMul(op.MatMul(rows_mn, features), columns_nm)

    images = torch.rand(EXAMPLE)
    example = (images, content_view(images, side=network.content_side))
    with torch.inference_mode():
        found = network(*example)._asdict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                _Graph(network),
                example,
                input_names=INPUTS,
                output_names=[name for name, field in found.items() if field is not None],
                dynamic_shapes=DYNAMIC,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table={
                    torch.ops.aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d
                },
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ModelError(
                f"torch {torch.__version__} cannot export it: {first_line(error)}", remedy=NEWER
            ) from error
    assert program is not None
    return program


def to_model(program: ONNXProgram) -> ModelProto:
    """Return the graph as it is stored: weights in float16 where that is exact, no traces."""
    from onnx import TensorProto, helper, numpy_helper

    model: ModelProto = program.model_proto
    graph = model.graph
    for node in graph.node:  # which lines of which files it came from
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if values.dtype == np.float32 and np.array_equal(half.astype(np.float32), values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            graph.node.insert(
                0, helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)
            )
    return model
