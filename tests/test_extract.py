"""Extraction survives kills, bad images and short memory, and never does work twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

import owl_checkpoint
from conftest import REPOSITORY
from ma_agiqa.cli import app
from ma_agiqa.errors import FeatureError, ImageError
from ma_agiqa.experts.questions import OFFICIAL, Question
from ma_agiqa.experts.semantic import fingerprint_of
from ma_agiqa.features.content import hash_files
from ma_agiqa.features.extract import BatchSize, extract
from ma_agiqa.features.header import Header
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.lmm.encoders import open_encoder
from ma_agiqa.types import RGB

WIDTH = 6


class FakeEncoder:
    """Colour means in place of an LMM; may run out of memory or refuse tall images."""

    width = WIDTH

    def __init__(self, *, room: int = 1000, infinite: int | None = None) -> None:
        self.parts = {"encoder": "colour means"}
        self.room, self.infinite = room, infinite
        self.batches: list[int] = []

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.parts)

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
    encoder.parts = {"encoder": "other means"}
    with pytest.raises(FeatureError, match='encoder: "colour means", not "other means"'):
        extract(encoder, pictures, store)


# --- the command, with a tiny mPLUG-Owl2 on real images -----------------------------------------


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "ma_agiqa", "extract", *map(str, words)]


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["extract", *map(str, words)])


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def lmm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sentencepiece", reason="needs the extra 'paper'")
    return owl_checkpoint.write(tmp_path_factory.mktemp("lmm") / "tiny")


@pytest.fixture(scope="module")
def photos(agiqa_3k: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of AGIQA-3K in a folder of their own."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted((agiqa_3k / "images").iterdir())[::70][:40]:
        shutil.copy(path, folder)
    return folder


def shards(store: Path) -> int:
    return len(list((store / "shards").glob("[!.]*.json")))


def test_a_killed_run_loses_at_most_one_shard_and_goes_on(
    lmm: Path, photos: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    words = (photos, "--lmm", lmm, "--store", store, "--shard-size", 4, "--batch-size", 1)
    process = subprocess.Popen(command(*words), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while shards(store) < 2 and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it must be killed in the middle of its work"
    kept = len(FeatureStore.open(store))
    assert 8 <= kept < 40
    assert kept % 4 == 0, "whole shards"
    done = run(*words)
    assert done.exit_code == 0, done.stderr
    assert f"{40 - kept} extracted, {kept} already there, 0 failed" in done.stderr
    paths = sorted(photos.iterdir())
    stored = FeatureStore.open(store)
    assert not stored.damaged
    encoder = open_encoder(lmm, device="cpu")
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths[:6]]
    expected = encoder.encode(images, OFFICIAL)
    found = stored.get(hash_files(paths[:6])).float()
    # Float16 weights and activations, another batch size; then stored as float16.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01 * expected.std().item())


def test_two_processes_fill_one_store(lmm: Path, photos: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    words = (photos, "--lmm", lmm, "--store", store, "--shard-size", 4)
    processes = [
        subprocess.Popen(
            command(*words, "--part", part), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        )
        for part in ("1/2", "2/2")
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        assert "20 extracted" in stderr
    stored = FeatureStore.open(store)
    assert len(stored) == 40
    assert not stored.missing(hash_files(sorted(photos.iterdir())))
    assert stored.verify() == []


def test_a_run_with_nothing_to_do_does_not_load_the_lmm(
    lmm: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    few = [str(path) for path in sorted(photos.iterdir())[:3]]
    assert run(*few, "--lmm", lmm, "--store", store).exit_code == 0

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("the weights were read")

    monkeypatch.setattr("ma_agiqa.lmm.mplug_owl2.encoder.MPLUGOwl2Encoder.load", refuse)
    done = run(*few, "--lmm", lmm, "--store", store)
    assert done.exit_code == 0, done.stderr
    assert "0 extracted, 3 already there" in done.stderr


def test_a_converted_lmm_goes_on_with_the_store_of_its_source(
    lmm: Path, photos: Path, tmp_path: Path
) -> None:
    few = [str(path) for path in sorted(photos.iterdir())[:3]]
    store, copy = tmp_path / "store", tmp_path / "copy"
    assert run(*few, "--lmm", lmm, "--store", store).exit_code == 0
    converted = CliRunner().invoke(app, ["convert-lmm", str(lmm), "--out", str(copy)])
    assert converted.exit_code == 0, converted.stderr
    assert converted.stdout.strip() == str(copy)
    assert list(copy.glob("*.safetensors"))
    assert not list(copy.glob("*.bin"))
    again = run(*few, "--lmm", copy, "--store", store)
    assert again.exit_code == 0, again.stderr
    assert "3 already there" in again.stderr
    weights = next(copy.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = run(*few, "--lmm", copy, "--store", store)
    assert changed.exit_code == 2, "a copy that was changed is another encoder"
    assert "weights:" in changed.stderr


def test_bad_images_are_json_lines_on_stdout_and_the_status_is_1(
    lmm: Path, photos: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    good = sorted(photos.iterdir())[0]
    done = run(good, bad, tmp_path / "gone.png", "--lmm", lmm, "--store", tmp_path / "store")
    assert done.exit_code == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [str(bad), str(tmp_path / "gone.png")]
    assert "empty" in rows[0]["error"]
    assert "1 extracted, 0 already there, 2 failed" in done.stderr


def test_own_questions_come_from_a_file(lmm: Path, photos: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.json"
    questions.write_text('{"hands": "How many fingers are there?"}')
    few = [str(path) for path in sorted(photos.iterdir())[:2]]
    words = (*few, "--lmm", lmm, "--store", tmp_path / "store", "--questions", questions)
    assert run(*words).exit_code == 0
    stored = FeatureStore.open(tmp_path / "store")
    assert stored.header.questions == (Question("hands", "How many fingers are there?"),)
    assert stored.get(hash_files(few)).shape == (2, 1, owl_checkpoint.WIDTH)
    questions.write_text('{"hands": "How many toes are there?"}')
    changed = run(*words)
    assert changed.exit_code == 2
    assert "How many fingers" in changed.stderr


def test_official_files_of_a_data_set_are_imported(agiqa_3k: Path, tmp_path: Path) -> None:
    table, tensors = tmp_path / "few.csv", tmp_path / "tensors"
    tensors.mkdir()
    names = sorted(path.name for path in (agiqa_3k / "images").iterdir())[:3]
    table.write_text("image,score\n" + "".join(f"{name},1\n" for name in names))
    for number, name in enumerate(names[:2]):
        for suffix in ("coherence", "semantic_content"):
            vector = torch.full((1, 4096), float(number)).half()
            torch.save(vector, tensors / f"{Path(name).stem}_{suffix}.pt")
    words = ("--data", table, "--root", agiqa_3k / "images", "--store", tmp_path / "store")
    done = run(*words, "--import-official", tensors)
    assert done.exit_code == 1, "one image has no files"
    assert names[2] in done.stdout
    paths = [agiqa_3k / "images" / name for name in names[:2]]
    found = FeatureStore.open(tmp_path / "store").get(hash_files(paths))
    assert found[:, 1, 17].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "either images or --data"),
        (("a.png", "--data", "agiqa-3k"), "either images or --data"),
        (("a.png", "--root", "x"), "--root belongs to --data"),
        (("--data", "agiqa-3k"), "--data needs --root"),
        (("a.png",), "nothing to extract with"),
        (("a.png", "--import-official", ".", "--questions", "q.toml"), "leave out --questions"),
        (("a.png", "--lmm", "nowhere"), "no such directory"),
        (("a.png", "--batch-size", "many"), "takes auto or a positive number"),
        (("a.png", "--part", "3/2"), "not of the form I/N"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    words: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    done = run(*words, "--store", tmp_path / "store")
    assert done.exit_code == 2
    assert reason in done.stderr
    assert not (tmp_path / "store").exists()
