"""LMMs whose weights are held in 8 or 4 bits: nearly the same vectors, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lmm_pictures import pictures
from ma_agiqa.errors import MissingExtraError, UsageError
from ma_agiqa.experts.questions import OFFICIAL
from ma_agiqa.lmm.encoders import open_encoder
from ma_agiqa.types import RGB

transformers = pytest.importorskip("transformers", reason="needs the extra 'lmm'")


LAYERS = 3


@pytest.fixture(scope="module")
def images() -> list[RGB]:
    return pictures()


def test_quantisation_without_a_gpu_or_its_package_is_refused(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "bits" in name else name)
    with pytest.raises(MissingExtraError, match=r"ma-agiqa\[quant\]"):
        open_encoder(qwen, device="cpu", load_in=4)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(UsageError, match="4-bit weights need a CUDA device, this is cpu"):
        open_encoder(qwen, device="cpu", load_in=4)
    with pytest.raises(UsageError, match="8 or 4 bits, not in 3"):
        open_encoder(qwen, device="cpu", load_in=3)


def test_an_8_bit_model_gives_nearly_the_same_vectors(qwen: Path, images: list[RGB]) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quant'")
    from ma_agiqa.lmm import any_transformers, pretrained

    exact: Any = open_encoder(qwen, device="cpu", dtype="fp32")
    expected = exact.encode(images, OFFICIAL)
    cpu, dtype = torch.device("cpu"), torch.float32
    model = pretrained.load_model(
        qwen, any_transformers.AUTO_CLASS, device=cpu, dtype=dtype, load_in=8
    )
    encoder = any_transformers.TransformersEncoder(
        model=model,
        processor=pretrained.read_processor(qwen),
        parts={**exact.parts, "load_in": 8},
        layer=LAYERS,
        pool="all",
    )
    found = encoder.encode(images, OFFICIAL)
    likeness = torch.cosine_similarity(found, expected, dim=-1)
    # Weights are rounded to 1 / 127 of a row's largest value. The CPU kernels of 4 bits want
    # wider layers than a tiny model has; its layers are tested alone below.
    assert likeness.min() > 0.999
    assert not torch.equal(found, expected)


def test_an_8_bit_mplug_owl2_gives_nearly_the_same_vectors(
    tmp_path: Path, images: list[RGB]
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quant'")
    pytest.importorskip("sentencepiece", reason="needs the extra 'paper'")
    import owl_checkpoint
    from ma_agiqa.lmm.mplug_owl2.encoder import MPLUGOwl2Encoder

    folder = owl_checkpoint.write(tmp_path / "owl")
    exact, rounded = (
        MPLUGOwl2Encoder.load(folder, dtype="fp32", load_in=load_in) for load_in in (None, 8)
    )
    assert "load_in" not in exact.parts, "stores from before keep their fingerprint"
    assert rounded.parts == {**exact.parts, "load_in": 8}
    expected, found = (encoder.encode(images, OFFICIAL) for encoder in (exact, rounded))
    likeness = torch.cosine_similarity(found, expected, dim=-1)
    assert likeness.min() > 0.999  # as above
    assert not torch.equal(found, expected)


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.1), (4, 0.8)])
def test_quantised_layers_stay_near_the_exact_ones(bits: int, tolerance: float) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quant'")
    from ma_agiqa.lmm.quantisation import replace_linears

    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(64, 128, bias=False), torch.nn.Linear(128, 64))
    layers.requires_grad_(False)
    inputs = torch.randn(32, 64)
    exact = layers(inputs)
    replace_linears(layers, bits=bits, dtype=torch.float32)
    found = layers.to("cpu")(inputs)
    assert not any(type(layer) is torch.nn.Linear for layer in layers)
    # Rounded to 1 / 127 of the largest value of a row (8 bits), to one of 16 levels (4 bits).
    assert (found - exact).abs().max() < tolerance * exact.std()
    assert not torch.equal(found, exact)
