"""Every family of LMMs: the right states over the right positions, of any batch; else a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ma_agiqa.errors import ImageError, MissingExtraError, ModelError, UsageError
from ma_agiqa.features.source import hash_files, key_of
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.lmm.encoder import OFFICIAL, Question, open_encoder, recorded_settings
from ma_agiqa.lmm.transformers import (
    AUTO_CLASS,
    POOLS,
    TransformersEncoder,
    load_model,
    mean_over,
    positions,
    read_processor,
)
from ma_agiqa.types import RGB
from support.command_line import run
from support.lmm_pictures import pictures

transformers = pytest.importorskip("transformers", reason="needs the extra 'lmm'")

from support import tiny_lmms  # noqa: E402

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
    assert again.identity == dict(stored.header.encoder)
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
        changed = {name for name in plain.identity if plain.identity[name] != other.identity[name]}
        assert part in changed
        assert changed <= {part, "processor"}
    assert open_encoder(qwen, device="cpu", layer=LAYERS).identity == plain.identity, (
        "-1 is the last"
    )


# --- pooling ---------------------------------------------------------------------------------


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


# --- 8 and 4 bits ----------------------------------------------------------------------------


def test_quantisation_without_a_gpu_or_its_package_is_refused(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "bits" in name else name)
    with pytest.raises(MissingExtraError, match=r"\[quant\]"):
        open_encoder(qwen, device="cpu", load_in=4)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(UsageError, match="4-bit weights need a CUDA device, this is cpu"):
        open_encoder(qwen, device="cpu", load_in=4)
    with pytest.raises(UsageError, match="8 or 4 bits, not in 3"):
        open_encoder(qwen, device="cpu", load_in=3)


def test_an_8_bit_model_gives_nearly_the_same_vectors(qwen: Path, images: list[RGB]) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quant'")
    exact: Any = open_encoder(qwen, device="cpu", dtype="fp32")
    expected = exact.encode(images, OFFICIAL)
    cpu, dtype = torch.device("cpu"), torch.float32
    model = load_model(qwen, AUTO_CLASS, device=cpu, dtype=dtype, load_in=8)
    encoder = TransformersEncoder(
        model=model,
        processor=read_processor(qwen),
        identity={**exact.identity, "load_in": 8},
        dtype=dtype,
        layer=LAYERS,
        pool="all",
    )
    found = encoder.encode(images, OFFICIAL)
    likeness = torch.cosine_similarity(found, expected, dim=-1)
    # Weights are rounded to 1 / 127 of a row's largest value. The CPU kernels of 4 bits want
    # wider layers than a tiny model has; its layers are tested alone below.
    assert likeness.min() > 0.999
    assert not torch.equal(found, expected)


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"layer": 4}, "layer 4 is not there: this model has 0"),
        ({"layer": -5}, "layer -5 is not there"),
        ({"pool": "mean"}, "unknown pool 'mean': use one of all, image, text, last"),
        ({"dtype": "fp8"}, "unknown dtype 'fp8'"),
    ],
)
def test_an_option_the_model_does_not_have_is_refused(
    qwen: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        open_encoder(qwen, device="cpu", **options)


def test_without_transformers_the_error_names_the_extra(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\[lmm\]"):
        open_encoder(qwen, device="cpu")


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def damages() -> Iterator[tuple[str, Any, str]]:
    yield "no config", lambda d: (d / "config.json").unlink(), "config.json: not found; the folder"
    yield "half a config", lambda d: (d / "config.json").write_text("{"), "config.json: damaged"
    yield "no type", lambda d: change_config(d, model_type=None), "no model_type, only"
    yield "new type", lambda d: change_config(d, model_type="qwen9_vl"), "does not load this model"
    yield "a text model", lambda d: change_config(d, model_type="bert"), "of type 'bert'"
    yield "no processor", lambda d: (d / "processor_config.json").unlink(), "processor"
    yield "no template", lambda d: (d / "chat_template.jinja").unlink(), "has no chat template"
    yield "no weights", lambda d: (d / "model.safetensors").unlink(), "holds no weights"

    def pickled(d: Path) -> None:
        (d / "model.safetensors").unlink()
        torch.save({}, d / "pytorch_model.bin")

    yield "pickles", pickled, "pickled weights"
    yield "a number for a part", lambda d: change_config(d, vision_config=5), "does not load"
    for layers in (10**6, -1, "x"):

        def count(d: Path, layers: object = layers) -> None:
            config = json.loads((d / "config.json").read_text())
            place = config.get("text_config", config)
            place["num_hidden_layers"] = layers
            (d / "config.json").write_text(json.dumps(config))

        yield f"{layers} layers", count, "layers|does not load"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [pytest.param(damage, reason, id=name) for name, damage, reason in damages()],
)
def test_an_unusable_checkpoint_is_named_with_what_was_found(
    qwen_copy: Path, damage: Any, reason: str
) -> None:
    damage(qwen_copy)
    with pytest.raises(ModelError, match=reason) as caught:
        open_encoder(qwen_copy, device="cpu")
    assert str(qwen_copy) in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 2.0 ** 5000 }}",
        "{% for x in 5 %}{% endfor %}",
    ],
)
def test_a_template_that_fails_is_named(qwen_copy: Path, images: list[RGB], template: str) -> None:
    (qwen_copy / "chat_template.jinja").write_text(template)
    with pytest.raises((ModelError, ImageError), match=r"template fails|refuses it"):
        open_encoder(qwen_copy, device="cpu").encode(images[:1], OFFICIAL)


@pytest.mark.parametrize("token", [-5, 10**9])
def test_a_mark_of_the_image_that_is_none_is_named(
    qwen_copy: Path, images: list[RGB], token: int
) -> None:
    change_config(qwen_copy, image_token_id=token)
    with pytest.raises((ModelError, ImageError)):
        open_encoder(qwen_copy, device="cpu").encode(images[:1], OFFICIAL)


def test_a_missing_tensor_is_an_error_and_no_random_start(
    qwen_copy: Path, images: list[RGB]
) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(qwen_copy / "model.safetensors")
    name = next(name for name in tensors if "q_proj.weight" in name)
    del tensors[name]
    save_file(tensors, qwen_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors are missing .*q_proj.weight"):
        open_encoder(qwen_copy, device="cpu").encode(images, OFFICIAL)


def test_a_damaged_weight_file_is_a_typed_error(qwen_copy: Path, images: list[RGB]) -> None:
    weights = qwen_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="weights cannot be loaded"):
        open_encoder(qwen_copy, device="cpu").encode(images, OFFICIAL)


def test_a_question_with_a_mark_of_the_model_is_refused(qwen: Path, images: list[RGB]) -> None:
    question = Question("q", "Is <|image_pad|> fine?")
    with pytest.raises(UsageError, match=r"contains <\|image_pad\|>, a mark of this model"):
        open_encoder(qwen, device="cpu").encode(images, [question])


def test_an_image_that_preprocessing_refuses_is_an_image_error(qwen: Path) -> None:
    stripe = np.zeros((2, 800, 3), np.uint8)
    with pytest.raises(ImageError, match="preprocessing refuses it"):
        open_encoder(qwen, device="cpu").encode([stripe], OFFICIAL)


def test_no_images_or_no_questions_give_no_vectors(qwen: Path, images: list[RGB]) -> None:
    encoder = open_encoder(qwen, device="cpu")
    width = encoder.encode(images[:1], OFFICIAL).shape[2]
    assert encoder.encode([], OFFICIAL).shape == (0, 2, width)
    assert encoder.encode(images, []).shape == (5, 0, width)


def test_wrong_use_of_the_command_is_one_line_and_status_2(qwen: Path, tmp_path: Path) -> None:
    done = run("extract", "a.png", "--lmm", qwen, "--layer", 9, "--store", tmp_path / "store")
    assert done.exit_code == 2
    assert "layer 9 is not there" in done.stderr
    assert not (tmp_path / "store").exists()
