"""The paper's preprocessing gives the official tensors, bit by bit."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ma_agiqa.config import Preprocess
from ma_agiqa.errors import MissingExtraError, ModelError
from ma_agiqa.models import preprocess

PAPER = Preprocess(kind="paper")
NAMES = ["img0_300x200", "img1_512x512", "img2_97x211", "img3_rgba_120x90", "img4_gray_64x80"]


def official_rgb(png: bytes) -> np.ndarray:
    """Decode as the official code does: alpha is cut off, where `images.py` puts it on white."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize("name", NAMES)
def test_paper_equals_the_official_tensor(fixtures: Path, name: str) -> None:
    pytest.importorskip("cv2", reason="the paper's resize needs the extra `paper`")
    about = json.loads((fixtures / "preprocess.json").read_text())["images"][name]
    with np.load(fixtures / "preprocess.npz") as recorded:
        rgb = official_rgb(recorded[f"{name}/png"].tobytes())
        fitted = preprocess.fit(rgb, PAPER)
        off = np.abs(fitted.transpose(2, 0, 1).astype(int) - recorded[f"{name}/dnn_uint8"])
        tensor = preprocess.prepare(rgb, PAPER).numpy()
        sample = tensor.reshape(-1)[:: int(recorded[f"{name}/dnn/stride"])][:2048]
        # OpenCV's resize takes another path on another processor and then rounds a few pixels
        # in ten thousand the other way: by one step of 256, which is 2 / 255 in the tensor.
        assert off.max() <= 1
        assert (off > 0).mean() <= 3e-4
        assert np.abs(sample - recorded[f"{name}/dnn/sample"]).max() <= 2.001 / 255
        if off.max() == 0:  # the processor that the outputs were recorded on: bit by bit
            assert np.array_equal(sample, recorded[f"{name}/dnn/sample"])
            assert hashlib.sha256(tensor.tobytes()).hexdigest() == about["dnn_sha256_float32"]


def test_antialiased_option_differs_and_averages() -> None:
    pytest.importorskip("cv2", reason="the paper's resize needs the extra `paper`")
    stripes = np.zeros((896, 896, 3), np.uint8)
    stripes[:, ::2] = 255
    smooth = preprocess.prepare(stripes, Preprocess(kind="paper-antialias"))
    assert smooth.shape == (3, 224, 224)
    # a fine stripe pattern of black and white is grey: 0 within one 8-bit level
    assert smooth[:, 8:-8, 8:-8].abs().max() <= 2 / 255
    aliased = preprocess.prepare(stripes, PAPER)
    assert not np.array_equal(smooth.numpy(), aliased.numpy())


@pytest.mark.parametrize("kind", ["paper", "paper-antialias"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (2000, 3, 3), (224, 224, 3)])
def test_any_size_becomes_the_same_square(kind: str, shape: tuple[int, ...]) -> None:
    pytest.importorskip("cv2", reason="the paper's resize needs the extra `paper`")
    rgb = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    tensor = preprocess.prepare(rgb, Preprocess(kind=kind))
    assert tensor.shape == (3, 224, 224)
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    if shape[:2] == (224, 224):
        assert np.array_equal(preprocess.fit(rgb, Preprocess(kind=kind)), rgb)


@pytest.mark.parametrize("kind", ["native", "paper", "paper-antialias"])
@pytest.mark.parametrize("shape", [(90, 61, 3), (224, 300, 3)])
def test_with_a_gradient_pixels_are_the_same_to_one_level(
    kind: str, shape: tuple[int, ...]
) -> None:
    """Pillow and OpenCV compute in fixed point: what lies between two levels may go either way."""
    pytest.importorskip("cv2", reason="the paper's resize needs the extra `paper`")
    rgb = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    recipe = Preprocess(kind=kind, max_pixels=60 * 60)
    unit = preprocess.to_unit(preprocess.to_chw(rgb))[None].requires_grad_()
    tensor = preprocess.prepare_with_gradient(unit, recipe)
    expected = preprocess.prepare(rgb, recipe)
    assert tensor.shape[1:] == expected.shape
    level = (1 if kind == "native" else 2) / 255
    off = (tensor[0] - expected).abs()
    assert off.max() <= 1.001 * level
    assert (off > 0.5 * level).float().mean() <= 0.01


@pytest.mark.parametrize("kind", ["native", "paper", "paper-antialias"])
@pytest.mark.parametrize("shape", [(90, 61), (224, 300)])
def test_the_gradient_is_that_of_the_change_of_size(kind: str, shape: tuple[int, int]) -> None:
    """Far from black and white all is linear but for rounding, so a large step ends where the
    gradient says."""
    torch.manual_seed(0)
    recipe = Preprocess(kind=kind, max_pixels=60 * 60)
    unit, step = 0.4 + 0.2 * torch.rand(1, 3, *shape), 0.2 * torch.rand(1, 3, *shape) - 0.1

    def prepare(values: torch.Tensor) -> torch.Tensor:
        return preprocess.prepare_with_gradient(values, recipe)

    _, promised = torch.autograd.functional.jvp(prepare, unit, step)
    level = (1 if kind == "native" else 2) / 255
    assert promised.abs().max() > 8 * level
    # Rounded before, between and after two passes, at both ends of the step.
    assert ((prepare(unit + step) - prepare(unit)) - promised).abs().max() <= 3.5 * level


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown preprocessing 'papre'"):
        preprocess.prepare(np.zeros((8, 8, 3), np.uint8), Preprocess(kind="papre"))


def test_missing_opencv_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"opencv-python-headless.*\[paper\]"):
        preprocess.prepare(np.zeros((8, 8, 3), np.uint8), PAPER)
