"""Training repeats, resumes, selects on validation, and refuses what cannot work."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ma_agiqa.data import datasets, splits
from ma_agiqa.errors import DataError, ImageError, ModelError, OutputError, UsageError
from ma_agiqa.files import lock_folder
from ma_agiqa.models import checkpoint
from ma_agiqa.models.registry import MODELS
from ma_agiqa.training import data
from ma_agiqa.training.loop import Trainer
from ma_agiqa.training.recipe import RECIPES, Recipe, with_settings
from ma_agiqa.training.run import TrainRequest, choose_precision, train
from support import scored_pictures

TINY = Recipe(epochs=2, batch_size=4, crop=32, distorted=2, ranking=0.5)


class Watcher:
    """Records what a run tells, and can interrupt it."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.lines: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.stop_after = stop_after

    def epoch_started(self, epoch: int, epochs: int) -> None:
        if self.stop_after is not None and epoch == self.stop_after:
            raise KeyboardInterrupt

    def loss(self, running: float) -> None:
        assert np.isfinite(running)

    def epoch_finished(self, line: dict[str, Any], *, best: bool) -> None:
        self.lines.append(line)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 60 noisy pictures of two sizes whose score falls with the noise."""
    return scored_pictures.write(tmp_path_factory.mktemp("set"))


def request(table: Path, out: Path, **changes: Any) -> TrainRequest:
    settings: dict[str, Any] = {
        "data": str(table),
        "root": table.parent,
        "out": out,
        "recipe": TINY,
        "backbone": "random",
        "network": ("width_factor=0.25", "content_side=64"),
        "split": "random-0",
        "device": "cpu",
        "precision": "float32",
    }
    return TrainRequest(**(settings | changes))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(out / "model")[0].state_dict()


def test_a_run_repeats_and_a_killed_run_resumes_to_the_same_weights(
    table: Path, tmp_path: Path
) -> None:
    train(request(table, tmp_path / "whole"), observer=Watcher())
    with pytest.raises(KeyboardInterrupt):
        train(request(table, tmp_path / "broken"), observer=Watcher(stop_after=1))
    watcher = Watcher()
    train(request(table, tmp_path / "broken", resume=True), observer=watcher)
    assert watcher.notes[0] == "resumed after epoch 1"
    assert [line["epoch"] for line in watcher.lines] == [2]
    whole = torch.load(tmp_path / "whole" / "state.pt", weights_only=True)["trainer"]
    broken = torch.load(tmp_path / "broken" / "state.pt", weights_only=True)["trainer"]
    for name in ("learner", "average"):
        for key, value in whole[name].items():
            assert torch.equal(value, broken[name][key]), f"{name} {key}"
    assert all(
        torch.equal(v, weights(tmp_path / "broken")[k])
        for k, v in weights(tmp_path / "whole").items()
    )


def test_the_average_follows_the_weights_and_without_it_the_last_ones_are_kept(
    table: Path, tmp_path: Path
) -> None:
    for name, ema in (("with", 0.9), ("without", 0.0)):
        recipe = Recipe(epochs=1, batch_size=4, crop=32, ema=ema)
        train(request(table, tmp_path / name, recipe=recipe), observer=Watcher())
    states = [
        torch.load(tmp_path / name / "state.pt", weights_only=True)["trainer"]
        for name in ("with", "without")
    ]
    key = "content.project.0.weight"
    last = [state["learner"][f"network.{key}"] for state in states]
    assert torch.equal(*last), "the average changes nothing in the training"
    assert torch.equal(weights(tmp_path / "without")[key], last[1])
    averaged = weights(tmp_path / "with")[key]
    assert not torch.equal(averaged, last[0])
    assert (averaged - last[0]).abs().max() < 0.05


def test_another_seed_gives_other_weights(table: Path, tmp_path: Path) -> None:
    one = Recipe(epochs=1, batch_size=4, crop=32)
    train(request(table, tmp_path / "a", recipe=one), observer=Watcher())
    train(request(table, tmp_path / "b", recipe=one, seed=1), observer=Watcher())
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert not torch.equal(a["content.project.0.weight"], b["content.project.0.weight"])


def test_the_run_folder_tells_what_happened(table: Path, tmp_path: Path) -> None:
    directory = train(request(table, tmp_path / "run"), observer=Watcher())
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    _, config = checkpoint.load(directory)
    trained = config.trained_on
    assert trained is not None
    assert (trained.dataset, trained.target, trained.split) == ("scores", "score", "random-0")
    assert trained.images == 42
    assert len(trained.score_quantiles) == 101
    assert "random-0" in (directory / "README.md").read_text()
    best = max(line["srcc"] for line in lines)
    state = torch.load(tmp_path / "run/state.pt", weights_only=True)
    assert state["best"] == best


def test_an_epoch_without_a_figure_is_beaten_by_any_other(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN of a first epoch once stayed the best for ever, as no number is greater."""
    figures = iter([float("nan"), float("nan"), -0.5, float("nan"), -0.7])

    def validate(trainer: Trainer) -> dict[str, float]:
        return {"srcc": next(figures), "plcc_raw": 0.1}

    monkeypatch.setattr(Trainer, "validate", validate)
    recipe = Recipe(epochs=5, batch_size=8, crop=32)
    with pytest.raises(KeyboardInterrupt):
        train(request(table, tmp_path / "run", recipe=recipe), observer=Watcher(stop_after=2))
    train(request(table, tmp_path / "run", recipe=recipe, resume=True), observer=Watcher())
    assert torch.load(tmp_path / "run/state.pt", weights_only=True)["best"] == -0.5
    assert "epoch 3, SRCC -0.5000" in (tmp_path / "run/model/README.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["srcc"] for line in lines] == [None, None, -0.5, None, -0.7]


def test_a_folder_with_a_run_is_not_overwritten_or_confused(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="no run to resume"):
        train(request(table, out, resume=True), observer=Watcher())
    train(request(table, out, recipe=Recipe(epochs=1, batch_size=4, crop=32)), observer=Watcher())
    with pytest.raises(UsageError, match="--resume"):
        train(request(table, out), observer=Watcher())
    with pytest.raises(UsageError, match="the run was started with seed 0, not 5"):
        train(
            request(
                table, out, resume=True, seed=5, recipe=Recipe(epochs=1, batch_size=4, crop=32)
            ),
            observer=Watcher(),
        )


def test_a_damaged_state_is_named(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(request(table, out), observer=Watcher(stop_after=1))
    (out / "state.pt").write_bytes(b"not a state")
    with pytest.raises(ModelError, match=r"state\.pt.*damaged"):
        train(request(table, out, resume=True), observer=Watcher())


def test_wrong_options_are_found_before_a_picture_is_decoded(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(path: Path) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(data, "read_image", unexpected)
    with pytest.raises(UsageError, match="unknown precision 'bf16'"):
        train(request(table, tmp_path / "run", precision="bf16"), observer=Watcher())
    with pytest.raises(DataError, match="42 training images do not fill a batch of 64"):
        train(request(table, tmp_path / "run", recipe=Recipe(batch_size=64)), observer=Watcher())


def test_images_beyond_the_limit_are_checked_at_the_start_and_never_kept(
    table: Path, tmp_path: Path
) -> None:
    paths = [table.parent / f"{number:02d}.png" for number in range(0, 12, 2)]  # of 40 x 40
    preprocess, size = MODELS["compact"].blueprint.preprocess, 40 * 40 * 3

    def images(limit: int) -> data.TrainingImages:
        return data.TrainingImages(paths, preprocess=preprocess, content_side=32, limit_bytes=limit)

    def held(one: data.TrainingImages) -> int:
        return sum(p.nbytes for kept in (one._kept, one._reduced) for p in kept.values())

    whole, part = images(1 << 20), images(3 * size + 32 * 32 * 3)
    assert held(part) == 3 * size
    for position in (*range(6), *range(6)):
        views = [
            one.view(position, TINY, distorted=False, rng=np.random.default_rng(position))
            for one in (whole, part)
        ]
        assert np.array_equal(views[0].crop, views[1].crop)
        assert views[0].whole is not None
        assert np.array_equal(views[0].whole, views[1].whole)
    assert held(whole) == 6 * (size + 32 * 32 * 3)
    assert held(part) == 3 * size + 32 * 32 * 3
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"not a picture")
    paths.append(damaged)
    with pytest.raises(ImageError, match=r"damaged\.png"):
        images(3 * size)


def test_data_that_cannot_train_says_why(table: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.csv"
    copy.write_text(table.read_text())
    with pytest.raises(DataError, match="images of copy are missing"):
        train(request(copy, tmp_path / "b"), observer=Watcher())
    few = table.parent / "few.csv"
    few.write_text("image,score\n" + "".join(f"{n:02d}.png,{n}\n" for n in range(30)))
    with pytest.raises(DataError, match="3 validation images cannot select"):
        train(request(few, tmp_path / "d"), observer=Watcher())
    flat = table.parent / "flat.csv"
    flat.write_text("image,score\n" + "".join(f"{n:02d}.png,3\n" for n in range(60)))
    with pytest.raises(DataError, match="same score"):
        train(request(flat, tmp_path / "c"), observer=Watcher())


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_missing_picture_is_told_before_any_is_decoded(
    part: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(table.parent, tmp_path / "copy") / table.name
    samples = datasets.load(str(copy), copy.parent)
    split = splits.resolve("random-0", samples, copy.parent)
    missing = samples.path[split.part(part)[0]]
    missing.unlink()
    monkeypatch.setattr(data, "read_image", lambda path, **limits: pytest.fail("decoded"))
    with pytest.raises(DataError, match=rf"1 of 48 images of {copy.stem} .*{missing.name}"):
        train(request(copy, tmp_path / "run"), observer=Watcher())


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("epochs", "key=value"),
        ("epoch=3", "close: epochs"),
        ("epochs=many", "takes int"),
        ("epochs=0", "must be positive"),
        ("drop=1.5", "must lie in"),
        ("reduce_prob=-1", r"must lie in"),
        ("distorted=25", "must not exceed batch_size"),
        ("views=mirror", "distorted copies need views=local"),
    ],
)
def test_wrong_settings_are_refused(setting: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        with_settings(RECIPES["compact"], [setting])


def test_settings_change_a_recipe() -> None:
    assert with_settings(RECIPES["compact"], ["epochs=7", "drop=0"]).epochs == 7


def test_a_run_is_not_resumed_with_other_data(table: Path, tmp_path: Path) -> None:
    own = tmp_path / "set"
    shutil.copytree(table.parent, own)
    copied = own / table.name
    with pytest.raises(KeyboardInterrupt):
        train(request(copied, tmp_path / "run"), observer=Watcher(stop_after=1))

    def refused(what: str) -> None:
        with pytest.raises(UsageError, match=f"other data: other {what}"):
            train(request(copied, tmp_path / "run", resume=True), observer=Watcher())

    rows = copied.read_text().splitlines()
    copied.write_text("\n".join([rows[0], *rows[:0:-1]]) + "\n")
    refused("names of .* and scores of .* and files of ")
    changed = rows[1].split(",")
    changed[1] = str(float(changed[1]) + 0.5)
    copied.write_text("\n".join([rows[0], ",".join(changed), *rows[2:]]) + "\n")
    refused("scores of ")
    copied.write_text("\n".join(rows) + "\n")
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(next(iter(written["content"].values()))) == {"names", "scores", "split", "files"}
    train(request(copied, tmp_path / "run", resume=True), observer=Watcher())


@pytest.mark.parametrize("seed", [-1, 10**20])
def test_a_seed_out_of_range_is_refused(table: Path, tmp_path: Path, seed: int) -> None:
    with pytest.raises(UsageError, match="a seed lies in"):
        request(table, tmp_path, seed=seed)


@pytest.mark.parametrize("fast", [False, True])
def test_auto_takes_bfloat16_where_hardware_multiplies_it_and_the_recipe_allows_it(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or fast

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: fast)
    for device in (torch.device("cuda"), torch.device("cpu")):
        taken = {n: choose_precision("auto", device, mixed=r.mixed_precision)
                 for n, r in RECIPES.items()}  # fmt: skip
        assert taken.pop("paper") == "float32"
        assert set(taken.values()) == {"bfloat16" if fast else "float32"}
        assert choose_precision("bfloat16", device, mixed=False) == "bfloat16"
    assert choose_precision("auto", torch.device("mps"), mixed=True) == "float32"


def test_a_run_resumes_in_the_precision_that_it_started_in(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    auto = request(table, tmp_path / "run", precision="auto")
    with pytest.raises(KeyboardInterrupt):
        train(auto, observer=Watcher(stop_after=1))
    resumed = replace(auto, resume=True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    with pytest.raises(UsageError, match="started with precision 'float32', not 'bfloat16'"):
        train(resumed, observer=Watcher())
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    # As earlier versions wrote it.
    path = tmp_path / "run" / "run.json"
    settings = json.loads(path.read_text())
    settings["precision"] = "auto"
    del settings["recipe"]["mixed_precision"]
    path.write_text(json.dumps(settings))
    watcher = Watcher()
    train(resumed, observer=watcher)
    assert watcher.notes[0] == "the run does not say its precision: going on in float32"
    assert [line["epoch"] for line in watcher.lines] == [2]
    assert "Precision: float32" in (tmp_path / "run/model/README.md").read_text()


def test_a_run_resumes_only_from_the_same_backbone(table: Path, tmp_path: Path) -> None:
    asked = request(table, tmp_path / "run", recipe=Recipe(epochs=1, batch_size=8, crop=32))
    with pytest.raises(KeyboardInterrupt):
        train(asked, observer=Watcher(stop_after=0))
    other = replace(asked, resume=True, backbone=None)
    with pytest.raises(UsageError, match="started with backbone 'random', not 'published'"):
        train(other, observer=Watcher())
    path = tmp_path / "run" / "run.json"
    settings = json.loads(path.read_text())
    del settings["backbone"]  # as earlier versions wrote it
    path.write_text(json.dumps(settings))
    train(replace(asked, resume=True), observer=Watcher())


def test_one_folder_takes_one_training_at_a_time(table: Path, tmp_path: Path) -> None:
    with lock_folder(tmp_path / "run"), pytest.raises(OutputError, match="another run"):
        train(request(table, tmp_path / "run"), observer=Watcher())
    assert list((tmp_path / "run").iterdir()) == []
