"""`ma-agiqa extract`: killed, repeated, shared, imported, and its exit statuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from conftest import REPOSITORY
from ma_agiqa.cli import app
from ma_agiqa.features.source import hash_files
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.lmm.encoder import OFFICIAL, Question, open_encoder
from support import owl_checkpoint


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "ma_agiqa", "extract", *map(str, words)]


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["extract", *map(str, words)])


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}


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
    assert not stored.damaged, "each shard was compared with its sha256"


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
        (("a.png", "--import-official", ".", "--lmm", "nowhere"), "no such directory"),
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
