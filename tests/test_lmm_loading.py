"""A checkpoint in the published layout becomes an encoder; a broken one becomes an error."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

import tiny_owl
from ma_agiqa.errors import ModelError, OutputError, UsageError
from ma_agiqa.experts.questions import OFFICIAL, Question
from ma_agiqa.lmm.mplug_owl2 import build, loading
from ma_agiqa.lmm.mplug_owl2.checkpoint import fingerprint, open_checkpoint
from ma_agiqa.lmm.mplug_owl2.encoder import MPLUGOwl2Encoder
from ma_agiqa.lmm.mplug_owl2.loading import convert_to_safetensors, load
from ma_agiqa.lmm.mplug_owl2.tokenizer import Tokenizer

pytest.importorskip("sentencepiece", reason="needs the extra 'paper'")
SHARDS = 33


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The published layout: 33 pickle shards, their index, config and tokenizer."""
    folder = tmp_path / "published"
    folder.mkdir()
    config = tiny_owl.config(vocab_size=360)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mplug_owl2"}))
    (folder / "tokenizer.model").write_bytes(tiny_owl.tokenizer_model())
    model = build(config, tiny_owl.weights(config))
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = {}
    for number in range(SHARDS):
        file = f"pytorch_model-{number + 1}-of-{SHARDS}.bin"
        part = {name: tensors[name] for name in list(tensors)[number::SHARDS]}
        torch.save(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def pictures() -> list[np.ndarray]:
    g = np.random.default_rng(0)
    return [g.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 60), (70, 30))]


def encoder(folder: Path, **options: Any) -> MPLUGOwl2Encoder:
    return MPLUGOwl2Encoder.load(folder, **{"dtype": "fp32", **options})


# --- loading ---------------------------------------------------------------------------------


def test_the_published_layout_loads_exactly(published: Path) -> None:
    model = load(published, dtype="fp32")
    expected = tiny_owl.weights(tiny_owl.config(vocab_size=360))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name]), name


def test_all_layouts_give_the_same_vectors(
    published: Path, tmp_path: Path, pictures: list[np.ndarray]
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
    vectors = [encoder(folder).encode(pictures, OFFICIAL) for folder in (published, copy, single)]
    assert vectors[0].shape == (2, 2, 64)
    assert torch.equal(vectors[0], vectors[1])
    assert torch.equal(vectors[0], vectors[2])


def test_real_images_give_the_same_vectors_by_both_schedules(
    published: Path, agiqa_3k: Path
) -> None:
    paths = sorted((agiqa_3k / "images").iterdir())[:3]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    assert len(images) == 3
    ours = encoder(published)
    cached = ours.encode(images, OFFICIAL)
    ours.schedule = "official"
    official = ours.encode(images, OFFICIAL)
    # Float32 sums in another order.
    torch.testing.assert_close(cached, official, rtol=0, atol=5e-6 * official.std().item())
    assert (cached[0] - cached[1]).abs().max() > 1e-3 * official.std()


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
    read = loading.read_shard

    def watched(path: Path, names: frozenset[str] | None) -> dict[str, torch.Tensor]:
        assert not [tensor for tensor in alive if tensor() is not None]
        tensors = read(path, names)
        alive.extend(weakref.ref(tensor) for tensor in tensors.values())
        return tensors

    monkeypatch.setattr(loading, "read_shard", watched)
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


def test_a_tokenizer_of_another_model_is_refused(published: Path) -> None:
    with pytest.raises(ModelError, match=r"has 360 pieces and BOS 1, the model expects 320 and 1"):
        Tokenizer(path=published / "tokenizer.model", vocab_size=320)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no weights"):
        load(tmp_path)


# --- from the Hub ----------------------------------------------------------------------------


def test_the_hub_is_asked_for_one_format_of_the_weights(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(published)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert load("owner/owl", revision="abc").width == 64
    assert asked == [
        ("owner/owl", "abc", ["*.json", "tokenizer.model"]),
        ("owner/owl", "abc", ["pytorch_model*.bin"]),
    ]


def test_an_unreachable_hub_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(ModelError, match="owner/owl: cannot be fetched from the Hub: no network"):
        load("owner/owl")


@pytest.mark.parametrize("source", ["/no/such/folder", "./here", "one-word"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(source: str) -> None:
    with pytest.raises(ModelError, match="no such directory, and not the name of a Hub"):
        load(source)


# --- conversion ------------------------------------------------------------------------------


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


# --- the encoder -----------------------------------------------------------------------------


def test_the_encoder_takes_any_questions(published: Path, pictures: list[np.ndarray]) -> None:
    owl = encoder(published)
    questions = (*OFFICIAL, Question(name="hands", text="How many fingers has each hand?"))
    three = owl.encode(pictures, questions)
    assert three.shape == (2, 3, owl.width)
    one = owl.encode(pictures[:1], questions[2:])
    # Another batch, the same sums in another order.
    torch.testing.assert_close(one[0, 0], three[0, 2], rtol=0, atol=5e-6 * three.std().item())


def test_the_encoders_fingerprint_follows_weights_and_dtype(
    published: Path, tmp_path: Path
) -> None:
    files = fingerprint(open_checkpoint(published))
    first = encoder(published).fingerprint
    published.rename(tmp_path / "moved")
    assert encoder(tmp_path / "moved").fingerprint == first
    assert encoder(tmp_path / "moved", dtype="bf16").fingerprint != first
    shard = tmp_path / "moved" / SHARD
    torch.save({k: v + 1 for k, v in torch.load(shard).items()}, shard)
    assert fingerprint(open_checkpoint(tmp_path / "moved")) != files
    assert encoder(tmp_path / "moved").fingerprint != first
