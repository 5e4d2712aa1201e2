"""Extraction survives kills, bad images and short memory, and never does work twice."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ma_agiqa.errors import FeatureError, ImageError
from ma_agiqa.features.extract import BatchSize, extract
from ma_agiqa.features.source import hash_files
from ma_agiqa.features.store import FeatureStore, Header
from ma_agiqa.lmm.encoder import OFFICIAL, Question, fingerprint_of
from ma_agiqa.types import RGB

WIDTH = 6


class FakeEncoder:
    """Colour means in place of an LMM; may run out of memory or refuse tall images."""

    width = WIDTH

    def __init__(self, *, room: int = 1000, infinite: int | None = None) -> None:
        self.identity = {"encoder": "colour means"}
        self.room, self.infinite = room, infinite
        self.batches: list[int] = []

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.identity)

    def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
        self.batches.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if any(image.shape[0] > 100 for image in images):
            raise ImageError("too tall for this encoder")
        means = torch.tensor(np.stack([image.mean((0, 1)) for image in images]))
        vectors = means.repeat(1, 2)[:, None].expand(-1, len(questions), -1).float().clone()
        if self.infinite is not None:
            vectors[means[:, 0].round() == self.infinite] = torch.inf
        return vectors


def save(path: Path, value: int, size: tuple[int, int] = (20, 16)) -> Path:
    Image.new("RGB", size, (value, value // 2, 255 - value)).save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    return [save(folder / f"{number:02d}.png", number) for number in range(12)]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "store", Header({"encoder": "colour means"}, 6, OFFICIAL))


def test_every_image_gets_its_own_vectors(pictures: list[Path], store: FeatureStore) -> None:
    seen: list[int] = []
    done = extract(FakeEncoder(), pictures, store, batch_size=5, on_image=lambda: seen.append(1))
    assert (done.extracted, done.present, done.failures) == (12, 0, [])
    assert len(seen) == 12
    found = FeatureStore.open(store.path).get(hash_files(pictures))
    assert found[:, 0, 0].tolist() == list(range(12))


def test_images_are_known_again_under_other_names(
    pictures: list[Path], store: FeatureStore
) -> None:
    extract(FakeEncoder(), pictures[:6], store)
    moved = [shutil.copy(path, path.with_name(f"new-{path.name}")) for path in pictures]
    encoder = FakeEncoder()
    done = extract(encoder, [*moved, moved[-1]], store, batch_size=4)
    assert (done.extracted, done.present) == (6, 7), "one of the copies was named twice"
    assert sum(encoder.batches) == 6


def test_a_second_run_asks_the_encoder_nothing(pictures: list[Path], store: FeatureStore) -> None:
    extract(FakeEncoder(), pictures, store)
    encoder = FakeEncoder()
    done = extract(encoder, pictures, store)
    assert (done.extracted, done.present) == (0, 12)
    assert encoder.batches == []


def test_images_of_a_damaged_shard_are_extracted_again(
    pictures: list[Path], store: FeatureStore
) -> None:
    extract(FakeEncoder(), pictures, store, shard_size=4)
    victim = sorted((store.path / "shards").glob("*.safetensors"))[1]
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    again = FeatureStore.open(store.path)
    done = extract(FakeEncoder(), pictures, again)
    assert (done.extracted, done.present) == (4, 8)
    found = FeatureStore.open(store.path).get(hash_files(pictures))
    assert found[:, 0, 0].tolist() == list(range(12))


def test_a_bad_image_is_a_failure_with_its_reason_and_the_run_goes_on(
    pictures: list[Path], store: FeatureStore
) -> None:
    pictures[1].write_bytes(b"no image")
    pictures[2].unlink()
    save(pictures[3], 3, size=(10, 200))
    done = extract(FakeEncoder(infinite=7), pictures, store, batch_size=8)
    assert done.extracted == 8
    reasons = {Path(failure.path).name: failure.reason for failure in done.failures}
    assert set(reasons) == {"01.png", "02.png", "03.png", "07.png"}
    assert "no such file" in reasons["02.png"]
    assert reasons["03.png"] == "too tall for this encoder"
    assert "not finite" in reasons["07.png"]
    assert not FeatureStore.open(store.path).has(hash_files([pictures[3]])[0])


def test_the_batch_is_halved_when_memory_is_short(
    pictures: list[Path], store: FeatureStore
) -> None:
    encoder = FakeEncoder(room=3)
    done = extract(encoder, pictures, store, batch_size=8)
    assert done.extracted == 12
    assert encoder.batches == [8, 4, 2, 2, 4, 2, 2, 2, 2], "8 did not fit, nor did its halves of 4"


def test_an_image_that_fits_no_memory_is_a_failure(
    pictures: list[Path], store: FeatureStore
) -> None:
    done = extract(FakeEncoder(room=0), pictures[:2], store)
    assert [failure.reason for failure in done.failures] == [
        "not enough memory to encode the image"
    ] * 2


def test_the_batch_doubles_while_that_is_faster() -> None:
    batch = BatchSize()
    sizes = []
    for speed in (1.0, 10.0, 18.0, 25.0, 25.5, 30.0):  # images/s; the first is the warm-up
        sizes.append(batch.size)
        batch.succeeded(batch.size, batch.size / speed)
    assert sizes == [4, 4, 8, 16, 32, 16], "32 was no faster than 16"


def test_a_bug_in_the_encoder_ends_the_run_and_keeps_what_was_done(
    pictures: list[Path], store: FeatureStore
) -> None:
    class Buggy(FakeEncoder):
        def encode(self, images: Sequence[RGB], questions: Sequence[Question]) -> Tensor:
            if self.batches:
                raise RuntimeError("shapes do not match")
            return super().encode(images, questions)

    with pytest.raises(RuntimeError, match="shapes"):
        extract(Buggy(), pictures, store, batch_size=4)
    assert len(FeatureStore.open(store.path)) == 4


def test_a_store_of_another_encoder_is_refused(pictures: list[Path], store: FeatureStore) -> None:
    encoder = FakeEncoder()
    encoder.identity = {"encoder": "other means"}
    with pytest.raises(FeatureError, match='encoder: "colour means", not "other means"'):
        extract(encoder, pictures, store)


# --- the command, with a tiny mPLUG-Owl2 on real images -----------------------------------------


@pytest.mark.parametrize("batch_size", [1, 8])
def test_copies_share_the_fate_of_their_image(
    pictures: list[Path], store: FeatureStore, tmp_path: Path, batch_size: int
) -> None:
    save(pictures[0], 3, size=(10, 200))
    copies = [shutil.copy(pictures[n], tmp_path / f"copy-{n}.png") for n in (0, 1)]
    done = extract(FakeEncoder(), [*pictures[:2], *copies], store, batch_size=batch_size)
    assert (done.extracted, done.present) == (1, 1)
    assert sorted(Path(f.path).name for f in done.failures) == ["00.png", "copy-0.png"]
