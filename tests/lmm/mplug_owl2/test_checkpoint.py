"""A checkpoint in the published layout becomes a model; a broken one becomes an error."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ma_agiqa.errors import ModelError, OutputError, UsageError
from ma_agiqa.lmm.encoder import OFFICIAL
from ma_agiqa.lmm.mplug_owl2 import build, checkpoint
from ma_agiqa.lmm.mplug_owl2.checkpoint import convert_to_safetensors, replace_linears
from ma_agiqa.lmm.mplug_owl2.encoder import MPLUGOwl2Encoder
from support import owl_checkpoint, tiny_owl
from support.lmm_pictures import pictures
from support.owl_checkpoint import PUBLISHED_SHARDS as SHARDS
from support.owl_checkpoint import load


def encoder(folder: Path, **options: Any) -> MPLUGOwl2Encoder:
    return MPLUGOwl2Encoder.load(folder, **{"dtype": "fp32", **options})


def test_the_published_layout_loads_exactly(published: Path) -> None:
    model = load(published, dtype="fp32")
    expected = tiny_owl.weights(tiny_owl.config(vocab_size=360))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name]), name


def test_all_layouts_give_the_same_vectors(
    published: Path, tmp_path: Path, two_images: list[np.ndarray]
) -> None:
    copy = convert_to_safetensors(published, tmp_path / "deep" / "copy")
    assert len(list(copy.glob("model-*-of-00033.safetensors"))) == SHARDS
    single = tmp_path / "single"
    single.mkdir()
    for file in ("config.json", "tokenizer.model"):
        (single / file).write_bytes((published / file).read_bytes())
    tensors: dict[str, torch.Tensor] = {}
    for path in published.glob("*.bin"):
        tensors |= torch.load(path, weights_only=True)
    # Checkpoints of later transformers lack the tables.
    tables = ("inv_freq", "q_pos_embed", "k_pos_embed")
    tensors = {name: t for name, t in tensors.items() if not name.endswith(tables)}
    torch.save(tensors, single / "pytorch_model.bin")
    vectors = [encoder(folder).encode(two_images, OFFICIAL) for folder in (published, copy, single)]
    assert vectors[0].shape == (2, 2, 64)
    assert torch.equal(vectors[0], vectors[1])
    assert torch.equal(vectors[0], vectors[2])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)],
)
def test_weights_arrive_in_the_dtype_asked_for(
    published: Path, dtype: str, expected: torch.dtype
) -> None:
    model = load(published, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {expected}
    tables = {n: t for n, t in model.named_buffers() if not n.endswith("inv_freq")}
    assert {t.dtype for t in tables.values()} == {expected}


@pytest.mark.parametrize("job", ["load", "convert"])
def test_never_more_than_one_shard_is_held(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    read = checkpoint.read_shard

    def watched(path: Path, names: frozenset[str] | None) -> dict[str, torch.Tensor]:
        assert not [tensor for tensor in alive if tensor() is not None]
        tensors = read(path, names)
        alive.extend(weakref.ref(tensor) for tensor in tensors.values())
        return tensors

    monkeypatch.setattr(checkpoint, "read_shard", watched)
    if job == "load":
        load(published, dtype="fp16")  # stored as fp32, so every tensor is converted
    else:
        convert_to_safetensors(published, tmp_path / "copy")
    assert len(alive) > 100


def test_an_unknown_dtype_is_refused(published: Path) -> None:
    with pytest.raises(UsageError, match="'int8': use one of fp16, bf16, fp32"):
        load(published, dtype="int8")


def _without(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def _truncated(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-2000])


def _holding(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(content)


def _index(change: Callable[[dict[str, str]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "pytorch_model.bin.index.json"
        index = json.loads(path.read_text())
        change(index["weight_map"])
        path.write_text(json.dumps(index))

    return damage


def _poisoned(folder: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return (Path.touch, (folder / "touched",))

    torch.save({"model.norm.weight": Harmful()}, folder / SHARD)


def _swapped(folder: Path) -> None:
    other = folder / f"pytorch_model-8-of-{SHARDS}.bin"
    (folder / SHARD).write_bytes(other.read_bytes())


SHARD = f"pytorch_model-7-of-{SHARDS}.bin"


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing shard": (_without(SHARD), f"1 of 33 weight files are missing: {SHARD}"),
    "truncated shard": (_truncated(SHARD), f"{SHARD}: damaged"),
    "empty shard": (_holding(SHARD, b""), f"{SHARD}: damaged"),
    "garbage shard": (_holding(SHARD, b"<html>rate limit</html>"), f"{SHARD}: damaged"),
    "shard with code": (_poisoned, f"{SHARD}: damaged"),
    "another's shard": (_swapped, f"{SHARD}: does not hold what the index says"),
    "no config": (_without("config.json"), "config.json: not found"),
    "damaged config": (_holding("config.json", b"{"), "config.json: damaged"),
    "config of another model": (_holding("config.json", b"{}"), "config.json: lacks visual_config"),
    "damaged index": (_holding("pytorch_model.bin.index.json", b"["), "index.json: damaged"),
    "index lacks a name": (
        _index(lambda places: places.pop("model.norm.weight")),
        r"1 missing tensors: model\.norm\.weight",
    ),
    "index with a strange name": (
        _index(lambda places: places.update({"strange": SHARD})),
        "1 unexpected tensors: strange",
    ),
    "index that leaves the folder": (
        _index(lambda places: places.update({"model.norm.weight": "../../secret.bin"})),
        "places model.norm.weight in '../../secret.bin'",
    ),
    "no tokenizer": (_without("tokenizer.model"), "tokenizer.model: not found"),
    "damaged tokenizer": (_holding("tokenizer.model", b"no"), "not a sentencepiece model"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_checkpoint_is_an_error_that_names_the_file(published: Path, damage: str) -> None:
    break_it, reason = DAMAGES[damage]
    break_it(published)
    with pytest.raises(ModelError, match=reason):
        encoder(published)
    assert not (published / "touched").exists(), "code inside a pickle was run"


def test_a_damaged_safetensors_shard_is_an_error_that_names_it(
    published: Path, tmp_path: Path
) -> None:
    copy = convert_to_safetensors(published, tmp_path / "copy")
    shard = next(iter(copy.glob("*.safetensors")))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ModelError, match=f"{shard.name}: damaged"):
        load(copy)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no weights"):
        load(tmp_path)


def test_conversion_never_overwrites(published: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="already exists"):
        convert_to_safetensors(published, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_failed_conversion_leaves_nothing_behind(published: Path, tmp_path: Path) -> None:
    _truncated(SHARD)(published)
    with pytest.raises(ModelError, match=SHARD):
        convert_to_safetensors(published, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


# --- configuration and tensors ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rms_norm_eps": None}, "rms_norm_eps must be a positive float, found None"),
        ({"hidden_size": "64"}, "hidden_size must be a positive int"),
        ({"num_attention_heads": 3}, "hidden_size = 64 is not divisible by twice the heads = 6"),
        ({"num_key_value_heads": 3}, "not divisible by key/value heads = 3"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling = .* is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported, only 'silu'"),
        ({"visual_config": None}, "visual_config must be a mapping"),
        ({"visual_config": {}}, "visual_model: expected a mapping, found NoneType"),
    ],
)
def test_a_wrong_config_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        build(tiny_owl.config(**changes))


def test_a_missing_epsilon_is_never_guessed() -> None:
    configuration = tiny_owl.config()
    del configuration["rms_norm_eps"]
    with pytest.raises(ModelError, match="lacks rms_norm_eps"):
        build(configuration)


def test_parts_that_do_not_fit_are_refused() -> None:
    configuration = tiny_owl.config()
    configuration["visual_config"]["visual_abstractor"]["grid_size"] = 5
    with pytest.raises(ModelError, match="grid_size = 5, but the vision model has 4"):
        build(configuration)


def test_wrong_weights_are_refused_by_name() -> None:
    configuration = tiny_owl.config()
    tensors = tiny_owl.weights(configuration)
    missing = {name: t for name, t in tensors.items() if name != "model.norm.weight"}
    with pytest.raises(ModelError, match=r"1 missing tensors: model\.norm.weight; no unexpected"):
        build(configuration, missing)
    with pytest.raises(ModelError, match="1 unexpected tensors: extra"):
        build(configuration, {**tensors, "extra": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"norm.weight has shape \(65,\), expected \(64,\)"):
        build(configuration, {**tensors, "model.norm.weight": torch.zeros(65)})


def test_a_stored_table_that_breaks_its_formula_is_refused() -> None:
    configuration = tiny_owl.config()
    tensors = tiny_owl.weights(configuration)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    right = build(configuration).state_dict()[name]
    build(configuration, {**tensors, name: right.half()})
    with pytest.raises(ModelError, match="inv_freq differs from its formula"):
        build(configuration, {**tensors, name: right * 1.01})


# --- 8 and 4 bits ----------------------------------------------------------------------------


def test_an_8_bit_mplug_owl2_gives_nearly_the_same_vectors(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quant'")
    pytest.importorskip("sentencepiece", reason="needs the extra 'paper'")

    folder = owl_checkpoint.write(tmp_path / "owl")
    exact, rounded = (
        MPLUGOwl2Encoder.load(folder, dtype="fp32", load_in=load_in) for load_in in (None, 8)
    )
    assert "load_in" not in exact.identity, "stores from before keep their fingerprint"
    assert rounded.identity == {**exact.identity, "load_in": 8}
    expected, found = (encoder.encode(pictures(), OFFICIAL) for encoder in (exact, rounded))
    likeness = torch.cosine_similarity(found, expected, dim=-1)
    assert likeness.min() > 0.999  # as above
    assert not torch.equal(found, expected)


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.1), (4, 0.8)])
def test_quantised_layers_stay_near_the_exact_ones(bits: int, tolerance: float) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quant'")

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
