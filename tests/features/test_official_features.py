"""Semantic vectors that the official code wrote, read into our order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ma_agiqa.features.extract import OFFICIAL_IDENTITY, import_official
from ma_agiqa.features.source import hash_files
from ma_agiqa.features.store import FeatureStore, Header
from ma_agiqa.lmm.encoder import OFFICIAL


def vectors(number: int, width: int) -> Tensor:
    return torch.randn(2, width, generator=torch.Generator().manual_seed(number))


@pytest.fixture
def official(tmp_path: Path) -> tuple[Path, list[Path]]:
    """A folder of official files for a.jpg and b.png, and the images."""
    folder, pictures = tmp_path / "tensors", []
    folder.mkdir()
    for number, name in enumerate(["a.jpg", "b.png"]):
        (tmp_path / name).write_bytes(b"image" + name.encode())
        pictures.append(tmp_path / name)
        batch = vectors(number, 4096 * 4).half().unflatten(1, (4, 4096))  # (2, 4, 4096)
        stem = folder / Path(name).stem
        torch.save(batch[0][1:2], f"{stem}_semantic_content.pt")  # a view: saved with its batch
        torch.save(batch[1][1:2].clone(), f"{stem}_coherence.pt")
    return folder, pictures


def test_official_files_are_read_in_our_order(
    official: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    folder, pictures = official
    assert (folder / "a_semantic_content.pt").stat().st_size > 30_000, "carries its whole batch"
    store = FeatureStore.create(tmp_path / "store", Header(OFFICIAL_IDENTITY, 4096, OFFICIAL))
    done = import_official(folder, pictures, store)
    assert (done.extracted, done.present, done.failures) == (2, 0, [])
    found = FeatureStore.open(store.path).get(hash_files(pictures))
    for number in range(2):
        expected = vectors(number, 4096 * 4).half().unflatten(1, (4, 4096))[:, 1]
        assert torch.equal(found[number], expected), "meaning first, then coherence"
    again = import_official(folder, pictures, FeatureStore.open(store.path))
    assert (again.extracted, again.present) == (0, 2)


def test_unusable_official_files_are_named_and_the_rest_is_taken(
    official: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    folder, pictures = official
    broken = {
        "c": (None, "c_semantic_content.pt: no such file"),
        "d": (b"no pickle", "d_semantic_content.pt: damaged"),
        "e": (torch.zeros(1, 5).half(), r"holds shape (1, 5), expected (1, 4096)"),
        "f": ({"a": 1}, "holds no vector"),
        "g": (torch.full((1, 4096), float("nan")).half(), "not finite"),
    }
    for stem, (content, _) in broken.items():
        (tmp_path / f"{stem}.jpg").write_bytes(b"image " + stem.encode())
        pictures.append(tmp_path / f"{stem}.jpg")
        for suffix in ("_semantic_content.pt", "_coherence.pt"):
            if isinstance(content, bytes):
                (folder / f"{stem}{suffix}").write_bytes(content)
            elif content is not None:
                torch.save(content, folder / f"{stem}{suffix}")
    pictures += [tmp_path / "a.png", tmp_path / "gone.png"]
    (tmp_path / "a.png").write_bytes(b"same stem as a.jpg")
    store = FeatureStore.create(tmp_path / "store", Header(OFFICIAL_IDENTITY, 4096, OFFICIAL))
    done = import_official(folder, pictures, store)
    assert done.extracted == 1
    reasons = {Path(failure.path).name: failure.reason for failure in done.failures}
    for stem, (_, reason) in broken.items():
        assert reason in reasons[f"{stem}.jpg"]
    assert "another image has this stem" in reasons["a.jpg"]
    assert "another image has this stem" in reasons["a.png"]
    assert "gone.png" in reasons
