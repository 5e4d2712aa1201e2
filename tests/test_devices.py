"""Devices: pieces of work side by side, one torch thread each, and nothing changed after."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ma_agiqa.devices import SingleThreadPool
from ma_agiqa.scorer import load


@pytest.fixture(autouse=True)
def four_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_results_keep_the_order_of_the_pieces() -> None:
    assert SingleThreadPool(3).map(lambda n: n * n, range(20)) == [n * n for n in range(20)]


def test_torch_uses_one_thread_in_each_thread_and_as_many_as_before_outside() -> None:
    pool = SingleThreadPool(2)
    for _ in range(2):  # in threads that start, and in threads that are there already
        assert pool.map(lambda _: torch.get_num_threads(), range(6)) == [1] * 6
        assert torch.get_num_threads() == 4
        pool.map(lambda _: torch.rand(300, 300) @ torch.rand(300, 300), range(6))


def test_pieces_run_at_the_same_time() -> None:
    both_there = threading.Barrier(2, timeout=30)
    SingleThreadPool(2).map(lambda _: both_there.wait(), range(2))


def test_an_error_passes_and_the_number_of_threads_comes_back() -> None:
    def fail(_: int) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        SingleThreadPool(2).map(fail, range(3))
    assert torch.get_num_threads() == 4


def test_compact_gives_the_same_bits_however_many_threads_torch_has(agiqa_3k: Path) -> None:
    pictures = sorted((agiqa_3k / "images").iterdir())[:3]
    seen = set()
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        scorer = load("compact", device="cpu", batch_size=2)
        seen.add(tuple(result.score for result in scorer.score(pictures)))
        seen.add(tuple(scorer(picture).score for picture in pictures))
    assert len(seen) == 1


def test_two_pools_made_at_once_leave_torch_its_threads() -> None:
    def make(_: int) -> list[int]:
        return SingleThreadPool(2).map(lambda _: torch.get_num_threads(), range(4))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(make, range(8))) == [[1] * 4] * 8
        assert pool.submit(torch.get_num_threads).result() == 4
    assert torch.get_num_threads() == 4
