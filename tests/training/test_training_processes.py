"""Several processes train as one process does, but for losses over a whole batch."""

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

from ma_agiqa.errors import UsageError
from ma_agiqa.training import data as training_data
from ma_agiqa.training.loop import Distributed
from ma_agiqa.training.recipe import RECIPES, with_settings
from ma_agiqa.training.run import Silence, TrainRequest, train
from support import scored_pictures, tiny_paper

pytest.importorskip("timm", reason="the paper's network needs the extra `paper`")
pytest.importorskip("cv2", reason="the paper's resize needs the extra `paper`")

# No dropout: its masks are each process's own; no correlation: it is of a process's own rows.
# All else that could differ is on: mirrored views, clipping, the moving average.
SETTINGS = ["epochs=2", "batch_size=8", "drop=0", "correlation=0", "learning_rate=1e-3"]
NETWORK = [*tiny_paper.OPTIONS[1::2], "visual.drop_path=0"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored_pictures.write(tmp_path_factory.mktemp("set"))


def train_alone(
    table: Path, out: Path, *changes: str, observer: Any = None, device: str = "cpu"
) -> Path:
    request = TrainRequest(
        data=str(table),
        root=table.parent,
        out=out,
        recipe=with_settings(RECIPES["modern"], [*SETTINGS, *changes]),
        model="visual",
        backbone="random",
        network=tuple(NETWORK),
        split="random-0",
        device=device,
        precision="float32",
    )
    train(request, observer=observer or Silence())
    return out


def train_together(
    table: Path,
    out: Path,
    *words: str,
    changes: Sequence[str] = (),
    device: str = "cpu",
    processes: int = 2,
) -> str:
    """Do the same on the command line in several processes; return what they said on stderr."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, "-m", *launcher, "-m", "ma_agiqa", "train", "--data", str(table)]
    command += ["--root", str(table.parent), "--out", str(out), "--model", "visual"]
    command += ["--recipe", "modern", "--backbone", "random", "--split", "random-0"]
    command += ["--device", device, "--precision", "float32", *words]
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
    saved = torch.load(out / "state.pt", weights_only=True, map_location="cpu")["trainer"]
    return {f"{n}.{k}": v for n in ("learner", "average") for k, v in saved[n].items()}


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_nccl_trains_as_no_launcher(table: Path, tmp_path: Path) -> None:
    train_alone(table, tmp_path / "alone", device="cuda")
    train_together(table, tmp_path / "nccl", device="cuda", processes=1)
    assert_same_training(tmp_path / "alone", tmp_path / "nccl")


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


def test_a_batch_that_cannot_be_shared_says_which_could(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Distributed, "__init__", pretend_to_be_three)
    monkeypatch.setattr(training_data, "read_image", unexpected)
    with pytest.raises(UsageError, match=r"equal parts for 3 processes.*batch_size=9"):
        train_alone(table, tmp_path / "run")
    with pytest.raises(UsageError, match=r"equal parts for 3 processes.*batch_size=15"):
        train_alone(table, tmp_path / "run", "correlation=0.5")
    with pytest.raises(UsageError, match=r"batch_size=24 --set distorted=6"):
        Distributed("cpu").rows(RECIPES["compact"])


def test_a_share_too_small_for_the_correlation_is_refused(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process once left the correlation out in silence."""
    monkeypatch.setattr(Distributed, "__init__", pretend_to_be_three)
    monkeypatch.setattr(training_data, "read_image", unexpected)
    shares = r"3 processes has 4 images of a batch of 12, .* needs 5 .*batch_size=15, or fewer"
    with pytest.raises(UsageError, match=shares):
        train_alone(table, tmp_path / "run", "correlation=0.5", "batch_size=12")
    for settings in (["correlation=0"], ["batch_size=3"], ["batch_size=15"]):
        recipe = with_settings(RECIPES["modern"], ["batch_size=12", *settings])
        assert Distributed("cpu").rows(recipe) == range(recipe.batch_size // 3)


def unexpected(path: Path) -> None:
    raise AssertionError("wrong options are found before a picture is decoded")


def pretend_to_be_three(self: Distributed, device: str) -> None:
    self.count, self.rank, self.first = 3, 0, True
    self.device, self._accelerator = torch.device("cpu"), None


def test_several_processes_cannot_share_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes cannot share the device 'cuda:1'"):
        Distributed("cuda:1")
