"""Several processes, and batches in parts, train as one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scored_pictures
import tiny_paper
from ma_agiqa.errors import UsageError
from ma_agiqa.training.batches import Rows
from ma_agiqa.training.processes import start
from ma_agiqa.training.recipe import RECIPES, with_settings
from ma_agiqa.training.run import Silence, TrainRequest, train

pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")
pytest.importorskip("cv2", reason="the paper's resize needs the extra `paper`")

# No dropout: its masks are each process's own. All else that could differ is on: mixing, noise
# on the scores, Pearson over the batch, clipping, the moving average.
SETTINGS = ["epochs=2", "batch_size=8", "drop=0", "mixup=0.5", "score_noise=0.1"]
SETTINGS += ["learning_rate=1e-3"]
NETWORK = [*tiny_paper.OPTIONS[1::2], "visual.drop_path=0"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored_pictures.write(tmp_path_factory.mktemp("set"))


def train_alone(table: Path, out: Path, *changes: str, observer: Any = None) -> Path:
    request = TrainRequest(
        data=str(table),
        root=table.parent,
        out=out,
        recipe=with_settings(RECIPES["modern"], [*SETTINGS, *changes]),
        model="visual",
        backbone="random",
        network=tuple(NETWORK),
        split="random-0",
        device="cpu",
        precision="float32",
    )
    train(request, observer=observer or Silence())
    return out


def train_together(table: Path, out: Path, *words: str, changes: Sequence[str] = ()) -> str:
    """Do the same on the command line in two processes; return what they said on stderr."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ma_agiqa"]
    command = [sys.executable, "-m", *launcher, "train", "--data", str(table)]
    command += ["--root", str(table.parent), "--out", str(out), "--model", "visual"]
    command += ["--recipe", "modern", "--backbone", "random", "--split", "random-0"]
    command += ["--device", "cpu", "--precision", "float32", *words]
    command += [word for change in (*SETTINGS, *changes) for word in ("--set", change)]
    command += [word for change in NETWORK for word in ("--network", change)]
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(out / "model")], "only the first process speaks"
    return done.stderr


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Return the weights after the last epoch, and the averaged ones."""
    saved = torch.load(out / "state.pt", weights_only=True)["trainer"]
    return {f"{n}.{k}": v for n in ("model", "average") for k, v in saved[n].items()}


def assert_same_training(one: Path, other: Path) -> None:
    # Gradients summed in another order differ in the last of their 24 bits, and Adam divides
    # by their size. A bias of keys has no gradient but rounding (attention does not change when
    # all keys move together), so there Adam's steps are chance: 10 of at most 1e-3. Elsewhere
    # what rounding moves stays below a hundredth of what training moves.
    theirs = weights(other)
    for name, value in weights(one).items():
        chance = name.endswith("qkv.bias") or ".key." in name
        atol = 2e-2 if chance else 1e-4
        np.testing.assert_allclose(theirs[name], value, rtol=0, atol=atol, err_msg=name)
    losses = [
        [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
        for run in (one, other)
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def alone(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    return train_alone(table, tmp_path_factory.mktemp("alone") / "run")


def test_two_processes_train_as_one(table: Path, alone: Path, tmp_path: Path) -> None:
    train_together(table, tmp_path / "two")
    assert_same_training(alone, tmp_path / "two")


class Interrupted(Silence):
    """Ends a training after its first epoch."""

    def epoch_started(self, epoch: int, epochs: int) -> None:
        if epoch == 1:
            raise KeyboardInterrupt


def test_a_run_goes_on_with_another_number_of_processes(
    table: Path, alone: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_alone(table, tmp_path / "run", observer=Interrupted())
    said = train_together(table, tmp_path / "run", "--resume")
    assert said.count("resumed after epoch 1") == 1
    assert_same_training(alone, tmp_path / "run")


def test_a_batch_in_parts_makes_the_same_step(table: Path, tmp_path: Path) -> None:
    # Without Pearson, which would see one part at a time.
    whole = train_alone(table, tmp_path / "whole", "correlation=0")
    parts = train_alone(table, tmp_path / "parts", "correlation=0", "accumulate=4")
    assert_same_training(whole, parts)


def test_every_row_belongs_to_one_process_and_is_found_again() -> None:
    rows = [Rows(batch=24, parts=3, rank=rank, processes=4) for rank in range(4)]
    assert sorted(row for r in rows for row in r.own) == list(range(24))
    gathered = [row for r in rows for row in r.own]
    assert [gathered[place] for place in rows[0].place.tolist()] == list(range(24))
    for part in range(3):  # of each part, what the processes gather is the part in order
        together = [row for r in rows for row in r.of_part(part)]
        assert together == list(range(8 * part, 8 * part + 8))


def test_a_batch_that_cannot_be_shared_says_which_could() -> None:
    with pytest.raises(UsageError, match=r"does not fall into 3 equal parts.*batch_size=12"):
        Rows(batch=16, parts=3, rank=0, processes=4)
    with pytest.raises(UsageError, match="accumulate must divide batch_size"):
        with_settings(RECIPES["paper"], ["accumulate=3"])


def test_several_processes_cannot_share_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes cannot share the device 'cuda:1'"):
        start("cuda:1")
