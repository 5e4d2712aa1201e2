"""A scorer in other processes: forked, spawned, and as a worker of a data loader."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import ma_agiqa
from ma_agiqa.scorer import Scorer

PROGRAM = """
import multiprocessing, sys
import torch
import ma_agiqa

scorer = ma_agiqa.load("compact", device="cpu")
paths = sys.argv[2:]
before = [scorer(path).score for path in paths] + [r.score for r in scorer.score(paths)]

def judge(path):
    return [scorer(path).score, *(result.score for result in scorer.score([path]))]

class Scores(torch.utils.data.Dataset):
    def __len__(self): return len(paths)
    def __getitem__(self, row): return judge(paths[row])

if sys.argv[1] == "pool":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(judge, paths)
else:
    loader = torch.utils.data.DataLoader(Scores(), num_workers=2, multiprocessing_context="fork",
                                         collate_fn=lambda rows: rows[0])
    found = list(loader)
assert [row[0] for row in found] + [row[1] for row in found] == before, (found, before)
print("equal")
"""


@pytest.fixture
def samples() -> list[Path]:
    """Pictures large enough for operations that torch gives to several threads."""
    folder = Path(__file__).parent.parent / "examples" / "pictures"
    return sorted(folder.glob("lake_*.jpg"))[:2]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no fork")
@pytest.mark.parametrize("kind", ["pool", "loader"])
def test_a_used_scorer_works_in_a_forked_process(kind: str, samples: list[Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, *map(str, samples)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "equal\n", done.stderr


def judge(scorer: Scorer, path: Path) -> float | None:
    return scorer(path).score


def test_a_scorer_is_sent_to_a_spawned_process(samples: list[Path]) -> None:
    scorer = ma_agiqa.load("compact", device="cpu", workers=1)
    expected = scorer(samples[0]).score
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(judge, (scorer, samples[0])) == expected
    again = copy.deepcopy(scorer)
    assert again.workers == 1
    assert again(samples[0]).score == expected


def test_a_scorer_of_a_network_in_memory_says_why_it_cannot_be_sent() -> None:
    scorer = ma_agiqa.load("compact", device="cpu")
    own = Scorer(scorer.model, scorer.config, device="cpu")
    with pytest.raises(TypeError, match="load made"):
        pickle.dumps(own)
