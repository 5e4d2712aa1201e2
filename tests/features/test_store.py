"""The feature store finds vectors by content, loses nothing, and refuses what is not its own."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import REPOSITORY
from ma_agiqa.errors import FeatureError, ImageError, OutputError
from ma_agiqa.features.source import hash_files, hash_source
from ma_agiqa.features.store import FeatureStore, Header
from ma_agiqa.lmm.encoder import COHERENCE, MEANING, OFFICIAL, Question

PARTS_HERE = {"encoder": "made up", "weights": "abc", "dtype": "torch.float16"}
HEADER = Header(encoder=PARTS_HERE, width=8, questions=OFFICIAL)


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def vectors(number: int, width: int = 8) -> Tensor:
    return torch.randn(2, width, generator=torch.Generator().manual_seed(number))


def fill(store: FeatureStore, numbers: range, *, shard_size: int = 4) -> None:
    with store.writer(shard_size=shard_size) as writer:
        for number in numbers:
            writer.add(sha(number), vectors(number, store.header.width))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Ten images in shards of 4, 4 and 2."""
    store = FeatureStore.create(tmp_path / "store", HEADER)
    fill(store, range(10))
    return store


def test_vectors_come_back_as_float16_in_the_order_asked_for(store: FeatureStore) -> None:
    again = FeatureStore.open(store.path)
    numbers = [9, 0, 4, 0]
    found = again.get([sha(n) for n in numbers])
    expected = torch.stack([vectors(n) for n in numbers]).half()
    assert torch.equal(found, expected)
    assert len(again) == 10
    assert len(list((store.path / "shards").glob("*.safetensors"))) == 3


def test_questions_are_chosen_by_name_in_any_order(store: FeatureStore) -> None:
    found = store.get([sha(3)], questions=[COHERENCE, MEANING])
    assert torch.equal(found[0], vectors(3).half().flip(0))
    assert store.get([sha(3)], questions=[COHERENCE]).shape == (1, 1, 8)


def test_missing_images_are_listed_once_in_order(store: FeatureStore) -> None:
    asked = [sha(12), sha(1), sha(11), sha(12)]
    assert store.missing(asked) == [sha(12), sha(11)]
    with pytest.raises(FeatureError, match=f"no vectors of 2 images, first with content {sha(12)}"):
        store.get(asked)


def test_an_image_of_the_paper_takes_16_kilobytes(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "store", Header(PARTS_HERE, 4096, OFFICIAL))
    fill(store, range(64), shard_size=32)
    on_disk = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    # 2 x 4096 float16 are 16,384 bytes; the index adds a hash of 64 letters to each record.
    # 20,000 records: 328 MB.
    assert 16_384 <= on_disk / 64 < 16_384 * 1.01


def test_two_writers_fill_one_store_and_a_duplicate_does_no_harm(tmp_path: Path) -> None:
    one = FeatureStore.create(tmp_path / "store", HEADER)
    other = FeatureStore.create(tmp_path / "store", HEADER)
    with one.writer(shard_size=4) as a, other.writer(shard_size=4) as b:
        for number in range(6):
            a.add(sha(number), vectors(number))
            b.add(sha(number + 4), vectors(number + 4))
    whole = FeatureStore.open(tmp_path / "store")
    numbers = range(10)
    assert not whole.missing(sha(n) for n in numbers)
    expected = torch.stack([vectors(n) for n in numbers]).half()
    assert torch.equal(whole.get([sha(n) for n in numbers]), expected)


def test_a_writer_sees_the_shards_of_others_when_its_own_is_full(tmp_path: Path) -> None:
    one = FeatureStore.create(tmp_path / "store", HEADER)
    other = FeatureStore.create(tmp_path / "store", HEADER)
    fill(other, range(4))
    assert not one.has(sha(0))
    fill(one, range(4, 8))
    assert one.has(sha(0))


def test_data_without_an_index_counts_for_nothing(store: FeatureStore) -> None:
    index = sorted((store.path / "shards").glob("*.json"))[0]
    index.unlink()
    again = FeatureStore.open(store.path)
    assert len(again) == 6
    assert not again.damaged


DAMAGES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "gone": lambda path: path.unlink(),
    "index is no JSON": lambda path: path.with_suffix(".json").write_text("{"),
    "index lacks rows": lambda path: path.with_suffix(".json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named_and_the_rest_stays_usable(
    store: FeatureStore, damage: str
) -> None:
    victim = sorted((store.path / "shards").glob("*.safetensors"))[1]
    DAMAGES[damage](victim)
    again = FeatureStore.open(store.path)
    (error,) = again.damaged.values()
    assert victim.stem in str(error)
    assert again.missing(sha(n) for n in range(10)) == [sha(n) for n in range(4, 8)]
    assert torch.equal(again.get([sha(9)])[0], vectors(9).half())
    fill(again, range(4, 8))
    assert not FeatureStore.open(store.path).missing(sha(n) for n in range(10))


def flip(path: Path, *, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_single_changed_byte_is_noticed_when_its_shard_is_first_read(
    store: FeatureStore,
) -> None:
    """It was not: a sha256 stood beside every shard, and vectors changed without a word."""
    again = FeatureStore.open(store.path)
    victim = sorted((store.path / "shards").glob("*.safetensors"))[0]
    flip(victim)
    everything = [sha(n) for n in range(10)]
    assert again.missing(everything) == everything[:4]
    assert not again.has(sha(2))
    (error,) = again.damaged.values()
    assert error.path == str(victim)
    assert torch.equal(again.get([sha(9)])[0], vectors(9).half()), "the rest stays usable"
    with pytest.raises(FeatureError, match=rf"no vectors of 1 images.*{victim.name}: damaged"):
        again.get([sha(9), sha(1)])


def test_images_of_a_damaged_shard_can_be_extracted_again(store: FeatureStore) -> None:
    victim = sorted((store.path / "shards").glob("*.safetensors"))[0]
    flip(victim)
    again = FeatureStore.open(store.path)
    numbers = [n for n in range(10) if not again.has(sha(n))]
    fill(again, range(min(numbers), max(numbers) + 1))
    for opened in (again, FeatureStore.open(store.path)):  # whichever of both comes first by name
        found = opened.get([sha(n) for n in range(10)])
        assert torch.equal(found, torch.stack([vectors(n) for n in range(10)]).half())


def test_threads_agree_on_what_a_damaged_shard_leaves(store: FeatureStore) -> None:
    flip(sorted((store.path / "shards").glob("*.safetensors"))[1])
    for _ in range(20):
        opened = FeatureStore.open(store.path)
        with ThreadPoolExecutor(8) as pool:
            there = list(pool.map(opened.has, [sha(n % 10) for n in range(80)]))
        assert there == [n % 10 not in range(4, 8) for n in range(80)]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as `store` makes it; its last shard has images 8 and 9."""
    made = FeatureStore.create(tmp_path_factory.mktemp("lasting") / "store", HEADER)
    fill(made, range(10))
    return made.path


@settings(deadline=None)
@given(at=st.integers(0, 10**6), part=st.sampled_from([".safetensors", ".json"]))
def test_a_store_cut_at_any_byte_of_its_last_shard_loses_at_most_that_shard(
    lasting: Path, at: int, part: str
) -> None:
    victim = sorted((lasting / "shards").glob(f"*{part}"))[-1]
    content = victim.read_bytes()
    try:
        victim.write_bytes(content[: at % len(content)])
        again = FeatureStore.open(lasting)
        kept = [n for n in range(10) if again.has(sha(n))]
        assert kept[:8] == list(range(8))
        found = again.get([sha(n) for n in kept])
    finally:
        victim.write_bytes(content)
    assert torch.equal(found, torch.stack([vectors(n) for n in kept]).half())


def test_what_a_killed_write_left_is_removed_a_day_later(store: FeatureStore) -> None:
    """A kill leaves a hidden temporary file of the size of a shard, and nothing removed it."""
    shards = store.path / "shards"
    left, fresh = (shards / f".w-00000.{n}a2b3c4d.tmp.safetensors" for n in (1, 2))
    foreign = shards / ".notes.tmp.txt"
    for path in (left, fresh, foreign):
        path.write_bytes(b"x")
    for path in (left, foreign):
        os.utime(path, (1, 1))
    assert len(FeatureStore.create(store.path, HEADER)) == 10
    assert not left.exists()
    assert fresh.exists(), "another process may be writing it"
    assert foreign.exists()


def test_a_header_that_does_not_open_is_named_when_read(store: FeatureStore) -> None:
    victim = sorted((store.path / "shards").glob("*.safetensors"))[0]
    size = victim.stat().st_size
    victim.write_bytes(b"\xff" * size)  # same size, so only reading it can tell
    with pytest.raises(FeatureError, match=rf"{victim.name}: damaged shard"):
        FeatureStore.open(store.path).get([sha(0)])


def test_another_encoder_is_refused_with_the_parts_that_differ(store: FeatureStore) -> None:
    other = Header({**PARTS_HERE, "dtype": "torch.bfloat16"}, 8, OFFICIAL)
    with pytest.raises(FeatureError) as caught:
        FeatureStore.create(store.path, other)
    text = str(caught.value)
    assert HEADER.fingerprint in text
    assert other.fingerprint in text
    assert 'dtype: "torch.float16", not "torch.bfloat16"' in text
    assert "weights" not in text


def test_a_shard_of_another_encoder_is_not_read(store: FeatureStore) -> None:
    index = sorted((store.path / "shards").glob("*.json"))[0]
    entry = json.loads(index.read_text())
    index.write_text(json.dumps({**entry, "encoder": "0" * 16}))
    again = FeatureStore.open(store.path)
    assert "holds vectors of encoder 0000000000000000" in str(again.damaged[index.name])


def test_changed_questions_are_refused_with_both_texts(store: FeatureStore) -> None:
    changed = Question("meaning", "Is there any meaning in this?")
    with pytest.raises(FeatureError, match=r"was 'Evaluate the input.*expected 'Is there any"):
        FeatureStore.create(store.path, Header(PARTS_HERE, 8, (changed, COHERENCE)))
    with pytest.raises(FeatureError, match="no vectors for question 'beauty', only meaning, coh"):
        store.get([sha(0)], questions=[Question("beauty", "Is it beautiful?")])
    with pytest.raises(FeatureError, match="also holds vectors for coherence"):
        FeatureStore.create(store.path, Header(PARTS_HERE, 8, (MEANING,)))


def _edited(store: FeatureStore, old: str, new: str) -> None:
    file = store.path / "encoder.json"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Evaluate if", "Evaluate whether", "text of question coherence was changed"),
        ('"abc"', '"abd"', "encoder parts give fingerprint"),
        ('"format_version": 1', '"format_version": 2', "upgrade"),
        ('"width"', '"breadth"', "damaged"),
        ('"width": 8', '"width": -1', "damaged"),
        ("{", "", "damaged"),
    ],
)
def test_an_edited_header_is_refused(store: FeatureStore, old: str, new: str, reason: str) -> None:
    _edited(store, old, new)
    with pytest.raises(FeatureError, match=reason):
        FeatureStore.open(store.path)


def test_a_folder_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="no feature store"):
        FeatureStore.open(tmp_path)
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="is no feature store"):
        FeatureStore.create(tmp_path, HEADER)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_full_disk_loses_no_shard_and_no_waiting_vector(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True
    write = Path.write_bytes

    def write_bytes(self: Path, data: bytes) -> int:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    writer = store.writer(shard_size=2)
    writer.add(sha(20), vectors(20))
    with pytest.raises(OutputError, match="No space left"):
        writer.add(sha(21), vectors(21))
    assert len(FeatureStore.open(store.path)) == 10
    full = False
    writer.flush()
    assert not FeatureStore.open(store.path).missing([sha(20), sha(21)])


def test_an_error_in_the_run_does_not_lose_what_was_added(store: FeatureStore) -> None:
    def interrupted() -> None:
        with store.writer(shard_size=100) as writer:
            writer.add(sha(30), vectors(30))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert FeatureStore.open(store.path).has(sha(30))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_float16_cannot_hold_are_refused(store: FeatureStore, value: float) -> None:
    wrong = vectors(0)
    wrong[1, 3] = value
    with store.writer() as writer, pytest.raises(FeatureError, match="not finite as float16"):
        writer.add(sha(40), wrong)
    assert not store.has(sha(40))


def test_vectors_of_another_shape_are_refused(store: FeatureStore) -> None:
    with store.writer() as writer, pytest.raises(FeatureError, match=r"\(2, 8\), got \(2, 9\)"):
        writer.add(sha(40), torch.zeros(2, 9))


def test_reads_are_mapped_into_memory(tmp_path: Path) -> None:
    """67 MB of vectors in one shard, of which one row is read: the process hardly grows."""
    store = FeatureStore.create(tmp_path / "store", Header(PARTS_HERE, 4096, OFFICIAL))
    with store.writer(shard_size=4096) as writer:
        row = torch.ones(2, 4096)
        for number in range(4096):
            writer.add(sha(number), row)
    code = (
        "import resource, sys; from ma_agiqa.features.store import FeatureStore\n"
        "store = FeatureStore.open(sys.argv[1])\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); assert store.get([sys.argv[2]]).sum() == 8192; print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.path), sha(3000)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 20_000, "kB; the shard has 67,000"


def test_an_image_is_known_by_its_content_not_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"the same")
    (tmp_path / "b.png").write_bytes(b"the same")
    one, other = hash_files([tmp_path / "a.png", tmp_path / "b.png"])
    assert one == other == hash_source(b"the same") == hash_source(str(tmp_path / "a.png"))
    assert hash_source(object()) is None
    with pytest.raises(ImageError, match=r"c\.png"):
        hash_files([tmp_path / "c.png"])
