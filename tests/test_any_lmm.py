"""Every family of LMMs: the right states, averaged over the right positions, of any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from command_line import run
from lmm_pictures import pictures
from ma_agiqa.errors import UsageError
from ma_agiqa.experts.questions import OFFICIAL, Question
from ma_agiqa.features.content import hash_files, key_of
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.lmm.encoders import open_encoder, recorded_settings
from ma_agiqa.lmm.pooling import POOLS, mean_over, positions
from ma_agiqa.types import RGB

transformers = pytest.importorskip("transformers", reason="needs the extra 'lmm'")

import tiny_lmms  # noqa: E402

WIDTH, LAYERS = 32, 3
IMAGE_MARK = {
    "qwen2_vl": "<|image_pad|>",
    "qwen2_5_vl": "<|image_pad|>",
    "qwen3_vl": "<|image_pad|>",
    "internvl": "<IMG_CONTEXT>",
    "gemma3": "<image_soft_token>",
}


@pytest.fixture(scope="module", params=list(tiny_lmms.LMMS))
def family(request: pytest.FixtureRequest) -> str:
    if request.param == "smolvlm":
        pytest.importorskip("num2words", reason="transformers' SmolVLM processor needs it")
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_lmms.write(family, tmp_path_factory.mktemp("lmm") / family)


@pytest.fixture(scope="module")
def images() -> list[RGB]:
    return pictures()


def states_of_transformers(
    checkpoint: Path, image: RGB, question: Question
) -> tuple[tuple[Tensor, ...], list[int]]:
    """Ask transformers itself: all hidden states (L, D) of one prompt, and its token ids."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    content = [
        {"type": "text", "text": question.text},
        {"type": "image", "image": Image.fromarray(image)},
    ]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    return tuple(state[0] for state in output.hidden_states), inputs["input_ids"][0].tolist()


def test_layer_and_pool_are_transformers_own_states(
    family: str, checkpoint: Path, images: list[RGB]
) -> None:
    question, image = OFFICIAL[1], images[2]
    states, ids = states_of_transformers(checkpoint, image, question)
    mark = transformers.AutoTokenizer.from_pretrained(checkpoint).convert_tokens_to_ids(
        IMAGE_MARK.get(family, "<image>")
    )
    is_image = torch.tensor(ids) == mark
    assert 1 < int(is_image.sum()) < len(ids) - 70, "the question's bytes are text"
    last = torch.arange(len(ids)) == len(ids) - 1
    chosen = {"all": is_image | True, "image": is_image, "text": ~is_image, "last": last}
    assert len(states) == LAYERS + 1
    for layer, pool in [(-1, pool) for pool in POOLS] + [(0, "all"), (1, "image"), (-2, "text")]:
        encoder = open_encoder(checkpoint, device="cpu", dtype="fp32", layer=layer, pool=pool)
        found = encoder.encode([image], [question])
        assert found.shape == (1, 1, WIDTH)
        # Float32 in another order of additions.
        torch.testing.assert_close(
            found[0, 0], states[layer][chosen[pool]].mean(dim=0), rtol=0, atol=2e-5
        )


def test_no_vector_depends_on_its_batch(family: str, checkpoint: Path, images: list[RGB]) -> None:
    encoder = open_encoder(checkpoint, device="cpu", dtype="fp32")
    together = encoder.encode(images, OFFICIAL)
    alone = torch.stack([encoder.encode([image], [q])[0, 0] for image in images for q in OFFICIAL])
    # Rounding of matrix products of another size; vectors of two images differ by far more.
    torch.testing.assert_close(together.flatten(0, 1), alone, rtol=0, atol=2e-6)
    distances = torch.cdist(alone, alone) + torch.eye(len(alone)) * 1e9
    assert distances.min() > 1e-3, "ten vectors, no two alike"


def test_images_are_seen_once_for_all_questions(
    checkpoint: Path, images: list[RGB], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder: Any = open_encoder(checkpoint, device="cpu", dtype="fp32")
    encoder.encode(images[:1], OFFICIAL)
    base, calls = encoder._loaded._base, []
    plain = base.get_image_features

    def counted(*words: Any, **named: Any) -> Any:
        calls.append(1)
        return plain(*words, **named)

    monkeypatch.setattr(base, "get_image_features", counted)
    shared = encoder.encode(images[:2], OFFICIAL)
    assert len(calls) == 1
    encoder._loaded._vision = ()  # a family that cannot share
    calls.clear()
    torch.testing.assert_close(encoder.encode(images[:2], OFFICIAL), shared, rtol=0, atol=2e-6)
    assert len(calls) == len(OFFICIAL)


def test_a_family_without_a_part_below_its_head_gives_the_same_vectors(
    qwen: Path, images: list[RGB], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = open_encoder(qwen, device="cpu", dtype="fp32").encode(images, OFFICIAL)
    whole: Any = open_encoder(qwen, device="cpu", dtype="fp32")
    with monkeypatch.context() as patch:
        patch.setattr(transformers.Qwen2_5_VLForConditionalGeneration, "base_model_prefix", "none")
        found = whole.encode(images, OFFICIAL)
    assert whole._loaded._base is not whole._loaded._base.model, "the head is on"
    torch.testing.assert_close(found, plain, rtol=0, atol=2e-6)  # rounding of float32


def test_vectors_of_real_images_come_through_the_command_line(
    checkpoint: Path, agiqa_3k: Path, tmp_path: Path
) -> None:
    paths = sorted((agiqa_3k / "images").iterdir())[::1000]
    words = ("--lmm", checkpoint, "--dtype", "fp32", "--device", "cpu", "--layer", -2)
    done = run("extract", *paths, *words, "--pool", "image", "--store", tmp_path / "store")
    assert done.exit_code == 0, done.stderr
    stored = FeatureStore.open(tmp_path / "store")
    assert (stored.header.width, len(stored.header.questions)) == (WIDTH, 2)
    again = open_encoder(checkpoint, device="cpu", **recorded_settings(stored.header.encoder))
    assert again.parts == dict(stored.header.encoder)
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    expected = again.encode(pictures, OFFICIAL)
    # Stored as float16, whose steps near 1 are 1e-3.
    torch.testing.assert_close(
        stored.get(hash_files(paths)).float(), expected, rtol=1e-3, atol=1e-3
    )


def test_a_question_file_may_quote_the_prompt(
    checkpoint: Path, agiqa_3k: Path, tmp_path: Path
) -> None:
    path = sorted((agiqa_3k / "images").iterdir())[700]
    questions = tmp_path / "questions.toml"
    questions.write_text('shown = "Does it show {prompt}?"\n')
    words = ("--lmm", checkpoint, "--dtype", "fp32", "--device", "cpu", "--questions", questions)
    for prompt in ("a fox", "a very old hat"):
        done = run("extract", path, *words, "--prompt", prompt, "--store", tmp_path / "store")
        assert done.exit_code == 0, done.stderr
        assert "1 extracted" in done.stderr
        found = FeatureStore.open(tmp_path / "store").get([key_of(hash_files([path])[0], prompt)])
        asked = Question("shown", f"Does it show {prompt}?")
        encoder = open_encoder(checkpoint, device="cpu", dtype="fp32")
        expected = encoder.encode([np.asarray(Image.open(path).convert("RGB"))], [asked])
        # Stored as float16, whose steps near 1 are 1e-3.
        torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-3)


def test_half_precision_stays_near_float32(qwen: Path, images: list[RGB]) -> None:
    exact = open_encoder(qwen, device="cpu", dtype="fp32").encode(images, OFFICIAL)
    for dtype in ("fp16", "bf16"):
        rounded = open_encoder(qwen, device="cpu", dtype=dtype).encode(images, OFFICIAL)
        assert rounded.dtype == torch.float32
        # bf16 keeps 8 bits: 0.4 % per operation, over three layers.
        assert (rounded - exact).abs().max() < 0.05 * exact.std()


def test_parts_change_with_everything_that_changes_vectors(qwen: Path, qwen_copy: Path) -> None:
    plain = open_encoder(qwen, device="cpu")
    others = {
        "layer": open_encoder(qwen, device="cpu", layer=1),
        "pool": open_encoder(qwen, device="cpu", pool="last"),
        "dtype": open_encoder(qwen, device="cpu", dtype="fp32"),
    }
    template = qwen_copy / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    others["template"] = open_encoder(qwen_copy, device="cpu")
    for part, other in others.items():
        changed = {name for name in plain.parts if plain.parts[name] != other.parts[name]}
        assert part in changed
        assert changed <= {part, "processor"}
    assert open_encoder(qwen, device="cpu", layer=LAYERS).parts == plain.parts, "-1 is the last"


# --- pooling ------------------------------------------------------------------------------------


def test_padding_is_never_averaged() -> None:
    states = torch.arange(12.0).reshape(2, 3, 2)
    states[0, 2], states[1, 0] = torch.inf, torch.nan  # padded right, padded left
    present = torch.tensor([[True, True, False], [False, True, True]])
    image = torch.tensor([[True, False, False], [False, True, False]])
    expected = {
        "all": [[1.0, 2.0], [9.0, 10.0]],
        "image": [[0.0, 1.0], [8.0, 9.0]],
        "text": [[2.0, 3.0], [10.0, 11.0]],
        "last": [[2.0, 3.0], [10.0, 11.0]],
    }
    for pool, rows in expected.items():
        chosen = positions(pool, present_BL=present, image_BL=image)
        assert mean_over(states, chosen).tolist() == rows, pool


def test_a_pool_without_positions_is_refused() -> None:
    present = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(UsageError, match="'image' finds no position"):
        positions("image", present_BL=present, image_BL=~present)
