"""A grid is read strictly: what is unknown, missing or of another type fails before any work."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from conftest import REPOSITORY
from ma_agiqa.bench import job as job_module
from ma_agiqa.bench.grid import read_grid
from ma_agiqa.bench.job import Job, expand_splits
from ma_agiqa.bench.models import AblationSpec, DirectorySpec, ProbeSpec, TrainSpec
from ma_agiqa.bench.run import prepare
from ma_agiqa.errors import DataError, FeatureError, MAAGIQAError, ModelError, UsageError
from ma_agiqa.features.source import hash_files
from ma_agiqa.training.data import Source
from support import bench_desk
from support.bench_desk import DATA, HEAD, PEER, PROBE, TRAIN

A = DATA.format(name="a")
BARE = TRAIN[: TRAIN.index("backbone")]
"""The training without arguments that only `compact` has."""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    return bench_desk.write(tmp_path)


def jobs_of(desk: Path, *parts: str) -> list[Job]:
    _, jobs = prepare(read_grid(bench_desk.grid(desk, *parts)))
    return jobs


def test_paths_start_at_the_toml_file(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    grid = read_grid(bench_desk.grid(desk, HEAD, A, PROBE))
    (probe,) = grid.model
    assert isinstance(probe, ProbeSpec)
    assert probe.store == desk / "store"
    assert (grid.data[0].data, grid.data[0].root) == (str(desk / "a.csv"), desk)
    assert grid.data[0].name == "a"


def test_ranges_of_splits_are_written_out() -> None:
    assert expand_splits(["prompt-8..11"]) == ("prompt-8", "prompt-9", "prompt-10", "prompt-11")
    assert expand_splits(["paper", "ipce-01..02"]) == ("paper", "ipce-01", "ipce-02")
    assert expand_splits(["ipce"])[::9] == ("ipce-01", "ipce-10")
    assert len(expand_splits(["ipce"])) == 10


def test_jobs_are_models_times_splits_and_seeds_where_one_matters(desk: Path) -> None:
    jobs = jobs_of(desk, HEAD, A, DATA.format(name="b"), PROBE, PEER, TRAIN)
    count = Counter(job.model.name for job in jobs)
    assert count == {"probe": 4, "peer": 4, "trained": 8}
    assert {job.seed for job in jobs if job.model.name == "trained"} == {0, 1}
    assert {job.seed for job in jobs if job.model.name != "trained"} == {None}
    crossing = {job.model.name: [other.name for other in job.others] for job in jobs[::-1]}
    assert crossing == {"probe": ["b"], "peer": [], "trained": ["b"]}
    assert len({job.key for job in jobs}) == len(jobs)


def test_an_ablation_is_one_training_per_row(desk: Path) -> None:
    entry = '[[ablation]]\nname = "x"\nstore = "store"\nnetwork = ["visual.window=7"]\n'
    models = read_grid(bench_desk.grid(desk, A, entry)).model
    assert [model.name for model in models] == [
        "x: visual",
        "x: visual + coherence",
        "x: visual + meaning",
        "x: all, linear gate",
        "x: all, softmax gate",
        "x: all, none gate",
    ]
    first, coherence, _, *gates = models
    assert isinstance(first, TrainSpec)
    assert (first.model, first.store) == ("visual", None)
    assert isinstance(coherence, TrainSpec)
    assert coherence.vectors == ("coherence",)
    last = [gate.network for gate in gates if isinstance(gate, TrainSpec)]
    assert last == [("visual.window=7", f"gate={gate}") for gate in ("linear", "softmax", "none")]
    assert AblationSpec(name="y", store=desk).models()[3].vectors == ()


def test_a_model_names_its_splits_as_data_do(desk: Path) -> None:
    """A range was no split of the data, so the model had no cell and was missing in silence."""
    grid = read_grid(bench_desk.grid(desk, A, TRAIN, 'splits = ["random-0..1"]\n'))
    (model,) = grid.model
    assert isinstance(model, TrainSpec)
    assert model.splits == ("random-0", "random-1")


def test_checkpoints_of_a_model_start_at_the_toml_file_too(desk: Path) -> None:
    (desk / "lmm").mkdir()
    (desk / "vit.safetensors").touch()
    model = '[[model]]\nname = "m"\nkind = "directory"\nmodel = "compact"\nlmm = "lmm"\n'
    start = 'backbone = "vit.safetensors"\n'
    directory, trained = read_grid(bench_desk.grid(desk, A, model, BARE, start)).model
    assert isinstance(directory, DirectorySpec)
    assert isinstance(trained, TrainSpec)
    assert (directory.model, directory.lmm) == ("compact", str(desk / "lmm"))
    assert trained.backbone == str(desk / "vit.safetensors")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["titel = 'x'\n", A, PROBE], "unknown keys 'titel'; .*did you mean title"),
        ([A], "names no model"),
        ([PROBE], "missing keys 'data'"),
        ([A, A, PROBE], "data named twice: a"),
        ([A, PROBE, PROBE], "model named twice: probe"),
        (["baseline = 'probes'\n", A, PROBE], "baseline 'probes' is no model.*did you mean probe"),
        (["seeds = [1, 1]\n", A, PROBE], "seeds must be given once each"),
        (["seeds = ['one']\n", A, PROBE], "seeds: expected int, got 'one'"),
        (["resamples = 5\n", A, PROBE], "at least 100, got 5"),
        (["part = 'train'\n", A, PROBE], "part must be test or val, got 'train'"),
        (["cross = 1\n", A, PROBE], "cross: expected bool, got 1"),
        ([A, PROBE.replace('"probe"\nstore', '"prope"\nstore')], "no kind 'prope'.*mean probe"),
        ([A, PROBE.replace('"probe"\nstore', '["probe"]\nstore')], r"no kind \['probe'\]"),
        ([A, PROBE, "layer = 3\n"], "model 'probe': unknown keys 'layer'; known are name, store"),
        ([A, "target = 3\n", PROBE], "data: target: expected str, got 3"),
        ([A, PROBE.replace("[[model]]", "[model]"), "x = 3\n"], "unknown keys 'x'"),
        (["model = 3\n", A], "model: expected a table, got 3"),
        ([A, TRAIN.replace('"compact"', '"compakt"')], "nothing named 'compakt' to train"),
        ([A, TRAIN, 'recipe = "papper"\n'], "no recipe named 'papper'"),
        ([A, TRAIN.replace("epochs=1", "epoch=1")], "the recipe has no 'epoch'"),
        ([A, TRAIN, 'splits = ["random-2"]\n'], "no data has the split 'random-2'.*random-0"),
        (["[[data]\n"], "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, parts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_grid(bench_desk.grid(tmp_path, *parts))


def test_a_grid_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read: No such file"):
        read_grid(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("parts", "kind", "message"),
    [
        ([A.replace("random-0..1", "papper"), PROBE], UsageError, "unknown split 'papper'"),
        ([A, 'target = "beauty"\n', PROBE], UsageError, "no target 'beauty'"),
        ([A.replace('"a.csv"', '"agiqa-3"'), PROBE], UsageError, "unknown data set 'agiqa-3'"),
        ([A, PROBE.replace('"store"', '"stoer"')], FeatureError, "this is no feature store"),
        ([A, PROBE, 'vectors = ["hands"]\n'], UsageError, "no vectors named 'hands'"),
        ([A, PEER.replace("peer.csv", "pear.csv")], DataError, "no such file"),
        ([A, PEER, 'data = "c"\n'], UsageError, "no data 'c'"),
        ([A, TRAIN, 'also = "b.csv"\n'], UsageError, "'trained': also: expected NAME=ROOT"),
        ([A, TRAIN, 'also = "c.csv=."\n'], DataError, "c.csv: no such file"),
        ([A, TRAIN, 'also = "live-it=."\n'], UsageError, "unknown data set 'live-it'"),
        ([A, TRAIN, 'also = "b.csv=.@papper"\n'], UsageError, "unknown split 'papper'"),
        ([A, BARE.replace('"compact"', '"paper"')], UsageError, "name its store"),
        (
            [A, '[[model]]\nname = "m"\nkind = "directory"\nmodel = "compakt"\n'],
            UsageError,
            "no model named 'compakt'",
        ),
        ([A, TRAIN.replace('"width_f', '"widht_f')], ModelError, "no argument .*mean width_factor"),
        (
            [A, BARE.replace('"compact"', '"visual"'), 'network = ["visual.window=5"]\n'],
            ModelError,
            "a grid of 28 does not divide into windows of 5",
        ),
    ],
)
def test_what_is_not_there_is_found_before_any_work(
    desk: Path, parts: list[str], kind: type[MAAGIQAError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        jobs_of(desk, *parts)


def test_other_weights_in_a_backbone_file_are_another_job(desk: Path) -> None:
    file = desk / "vit.safetensors"
    training = BARE.replace('"compact"', '"visual"')
    keys = set()
    for content in (b"one", b"one", b"two"):
        file.write_bytes(content)
        keys.add(jobs_of(desk, A, training, 'backbone = "vit.safetensors"\n')[0].key)
    assert len(keys) == 2


def listed_split(desk: Path) -> str:
    """Write a list of test images and return the data set with the split that it makes."""
    (desk / "splits").mkdir(exist_ok=True)
    (desk / "splits/ipce-01-test.txt").write_text("a/0.png\na/1.png\n")
    return A.replace("random-0..1", "ipce-01")


def other_prompt(desk: Path) -> None:
    text = (desk / "a.csv").read_text()
    (desk / "a.csv").write_text(text.replace("prompt 24", "other words"))


def other_list(desk: Path) -> None:
    (desk / "splits/ipce-01-test.txt").write_text("a/2.png\na/3.png\n")


def other_image(desk: Path) -> None:
    (desk / "a/9.png").write_bytes((desk / "a/9.png").read_bytes() + b"more")


def other_image_of_also(desk: Path) -> None:
    (desk / "b/9.png").write_bytes((desk / "b/9.png").read_bytes() + b"more")


def other_score_of_also(desk: Path) -> None:
    text = (desk / "b.csv").read_text()
    (desk / "b.csv").write_text(re.sub(r"b/7.png,[^,]*", "b/7.png,4.5", text))


@pytest.mark.parametrize(
    "change", [other_prompt, other_list, other_image, other_image_of_also, other_score_of_also]
)
def test_other_content_is_another_job(desk: Path, change: Callable[[Path], None]) -> None:
    """Jobs were known by names and scores: results of other images and splits were kept."""
    parts = listed_split(desk), TRAIN, 'also = "b.csv=.@random-0"\n'
    keys = [job.key for job in jobs_of(desk, *parts)]
    assert [job.key for job in jobs_of(desk, *parts)] == keys
    change(desk)
    assert not set(keys) & {job.key for job in jobs_of(desk, *parts)}


def test_a_grid_elsewhere_has_the_same_jobs(
    desk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parts = A, PROBE, TRAIN, 'also = "b.csv=.@random-0"\n'
    keys = [job.key for job in jobs_of(desk, *parts)]
    elsewhere = tmp_path_factory.mktemp("else") / "where=it@is"
    shutil.copytree(desk, elsewhere)
    assert [job.key for job in jobs_of(elsewhere, *parts)] == keys


def test_each_image_is_hashed_once_for_all_jobs(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def noted(paths: Sequence[Path]) -> list[str]:
        hashed.extend(paths)
        return hash_files(paths)

    monkeypatch.setattr(job_module, "hash_files", noted)
    again = 'also = "b.csv=."\n', A.replace("data =", 'name = "again"\ndata =')
    jobs_of(desk, HEAD, A, DATA.format(name="b"), PROBE, TRAIN, *again)
    assert len(hashed) == len(set(hashed)) == 2 * bench_desk.IMAGES


def test_further_data_sets_start_at_the_toml_file_and_take_the_runs_split(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They started at the current directory."""
    monkeypatch.chdir("/")
    also = 'also = ["b.csv=.@random-8-2-0", "b.csv=."]\n'
    for job in jobs_of(desk, A, TRAIN, also):
        assert job.model.sources(job.split) == (
            Source(str(desk / "b.csv"), desk, "random-8-2-0"),
            Source(str(desk / "b.csv"), desk, job.split),
        )
        assert [row[2] for row in job.settings["also"]] == ["random-8-2-0", job.split]


def test_the_grids_of_this_repository_are_read() -> None:
    """One named a setting that a recipe no longer has."""
    root = REPOSITORY / "benchmarks/grids"
    for path in sorted(root.glob("*.toml")):
        for model in read_grid(path).model:
            for also in model.also if isinstance(model, TrainSpec) else ():
                assert isinstance(also, Source)
                assert also.root.resolve() == REPOSITORY / "LIVE-itW"


def test_a_file_without_scores_for_a_tested_image_is_refused_with_the_count(desk: Path) -> None:
    lines = (desk / "peer.csv").read_text().splitlines()
    (desk / "peer.csv").write_text("\n".join(lines[:1] + lines[51:]))  # those of b only
    with pytest.raises(DataError, match=r"has no score for 1[0-9] of 1[0-9] images of a"):
        jobs_of(desk, A, PEER)


def test_a_range_of_millions_of_splits_is_refused() -> None:
    with pytest.raises(UsageError, match="more than 1000 splits"):
        expand_splits(["random-0..99999999"])
