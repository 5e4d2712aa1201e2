"""Nodes for ComfyUI: score pictures, show where quality lies, keep what is good.

Written for ComfyUI's V3 interface. A `node_id` is part of every saved workflow and never changes.

Shapes: B pictures of a batch, H, W height and width in pixels, C channels. ComfyUI's IMAGE is
(B, H, W, C), floats.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io
from comfy_execution.graph import ExecutionBlocker
from PIL import Image
from torch import Tensor

import ma_agiqa
from ma_agiqa.errors import ImageError
from ma_agiqa.gallery.picture import headline, map_ends, overlay
from ma_agiqa.images import read_image

CATEGORY = "image/quality"

scorer = cache(ma_agiqa.load)


def inputs(*more: Any) -> list[Any]:
    """Return the inputs that all nodes have, and more."""
    about = "A name such as compact, the folder of a model that you trained, or a Hub id."
    model = io.String.Input("model", default="compact", tooltip=about)
    return [io.Image.Input("images"), *more, model]


def pictures(images: Tensor) -> Tensor:
    """Return a batch as (B, 3, H, W) in [0, 1], as it would be saved: cut off, alpha over white."""
    rgb, alpha = images[..., :3], images[..., 3:]
    if alpha.shape[-1]:
        rgb = rgb * alpha + (1 - alpha)
    return rgb.clamp(0, 1).movedim(-1, 1)


def judged(images: Tensor, model: str, *, explain: bool = False) -> list[ma_agiqa.Score]:
    """Score a batch; a picture that cannot be judged has an error in place of a score."""
    return list(scorer(model).score(pictures(images), explain=explain))


class Score(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MAAGIQA_Score",
            display_name="Quality Score",
            category=CATEGORY,
            description="How good pictures look, as people would rate them.",
            inputs=inputs(),
            outputs=[
                io.Image.Output("images_out", display_name="images"),
                io.Float.Output(
                    "scores", is_output_list=True, tooltip="One for each picture; nan for none."
                ),
                io.String.Output("text", tooltip="A line for each picture."),
            ],
        )

    @classmethod
    def execute(cls, images: Tensor, model: str) -> io.NodeOutput:
        scores = judged(images, model)
        values = [float("nan") if score.score is None else score.score for score in scores]
        lines = [f"{n}: {headline(score)}" for n, score in enumerate(scores, start=1)]
        for n, score in enumerate(scores):
            if score.error is not None:
                lines[n] += f": {score.error}"
        return io.NodeOutput(images, values, "\n".join(lines))


class HeatMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MAAGIQA_HeatMap",
            display_name="Quality Heat Map",
            category=CATEGORY,
            description="Where a picture is good (yellow) and where it is bad (violet).",
            inputs=inputs(),
            outputs=[io.Image.Output("maps")],
        )

    @classmethod
    def execute(cls, images: Tensor, model: str) -> io.NodeOutput:
        maps = []
        for picture, score in zip(
            pictures(images), judged(images, model, explain=True), strict=True
        ):
            if score.map is None:
                raise ImageError(score.error or "the model has no map", path=score.path)
            shown = overlay(Image.fromarray(read_image(picture)), score.map, map_ends(score))
            maps.append(torch.from_numpy(np.array(shown)).float() / 255)
        return io.NodeOutput(torch.stack(maps))


class Threshold(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        least = io.Float.Input("least", default=2.5, min=-100.0, max=100.0, step=0.1)
        return io.Schema(
            node_id="MAAGIQA_Threshold",
            display_name="Quality Threshold",
            category=CATEGORY,
            description="Splits a batch. What follows on the side of no pictures does not run.",
            inputs=inputs(least),
            outputs=[
                io.Image.Output("passed"),
                io.Image.Output("rejected", tooltip="Pictures that cannot be judged, too."),
            ],
        )

    @classmethod
    def execute(cls, images: Tensor, least: float, model: str) -> io.NodeOutput:
        scores = judged(images, model)
        passed = torch.tensor([one.score is not None and one.score >= least for one in scores])
        # An empty list or batch would be an error in most nodes; this one has them wait.
        sides = (
            images[which] if which.any() else ExecutionBlocker(None) for which in (passed, ~passed)
        )
        return io.NodeOutput(*sides)


class BestK(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MAAGIQA_BestK",
            display_name="Best K by Quality",
            category=CATEGORY,
            description="The best pictures of a batch, best first.",
            inputs=inputs(io.Int.Input("k", default=1, min=1, max=4096)),
            outputs=[
                io.Image.Output("best"),
                io.Float.Output("scores", is_output_list=True),
            ],
        )

    @classmethod
    def execute(cls, images: Tensor, k: int, model: str) -> io.NodeOutput:
        scores = judged(images, model)
        found = {n: one.score for n, one in enumerate(scores) if one.score is not None}
        if not found:
            raise ImageError(f"no picture can be judged: {scores[0].error}")
        best = sorted(found, key=found.__getitem__, reverse=True)[:k]
        return io.NodeOutput(images[best], [found[n] for n in best])


class Extension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [Score, HeatMap, Threshold, BestK]


async def comfy_entrypoint() -> Extension:
    return Extension()
