"""Vectors that the official script wrote -> a feature store.

Source: official getFeature.py. For an image `a.jpg` it wrote `a_semantic_content.pt` and
`a_coherence.pt`, each a float16 tensor (1, 4096). Kept in mind from there: files are named by
the stem, so two images of one stem have overwritten each other and are refused here; a file
may store the whole batch of 8 that its tensor is a view of (67 KB instead of 10), of which
only the view is taken.
The files do not say which weights they were made with. They count as made by an encoder of
their own, unless the caller says which one it was.

Shapes: D width.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ma_agiqa.errors import FeatureError, ImageError, first_line
from ma_agiqa.features.content import hash_source
from ma_agiqa.features.extract import Extraction, Failure
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.lmm.encoder import OFFICIAL

SUFFIXES = {"meaning": "_semantic_content.pt", "coherence": "_coherence.pt"}
WIDTH = 4096
IDENTITY = {"encoder": "files of the official getFeature.py, weights unknown", "width": WIDTH}
"""What such vectors count as made by when nobody says more."""


def import_official(
    directory: str | Path,
    images: Sequence[str | Path],
    store: FeatureStore,
    *,
    on_image: Callable[[], None] = lambda: None,
) -> Extraction:
    """Put the official vectors of images into a store, by the content of each image.

    Raises:
        FeatureError: the store is not for the two official questions.
        OutputError: a shard could not be written.
    """
    directory, done = Path(directory), Extraction()
    if not directory.is_dir():
        raise FeatureError("no such folder of official features", path=directory)
    if store.header.questions != OFFICIAL:
        raise FeatureError("official features answer the two official questions", path=store.path)
    stems = Counter(Path(image).stem for image in images)
    with store.writer() as writer:
        for image in images:
            try:
                if stems[Path(image).stem] > 1:
                    raise FeatureError("another image has this stem; official files mix them up")
                sha256 = hash_source(image)
                assert sha256 is not None
                if store.has(sha256):
                    done.present += 1
                else:
                    writer.add(sha256, read_vectors(directory, image, store.header.width))
                    done.extracted += 1
            except ImageError as error:
                done.failures.append(Failure(str(image), error.without_path))
            except FeatureError as error:
                done.failures.append(Failure(str(image), str(error)))
            on_image()
    return done


def read_vectors(directory: Path, image: str | Path, width: int) -> Tensor:
    """Return the two vectors of an image in the order of `OFFICIAL`, (2, D).

    Raises:
        FeatureError: a file is missing, damaged, or holds another shape.
    """
    stem = Path(image).stem
    return torch.stack([_vector(directory / (stem + SUFFIXES[q.name]), width) for q in OFFICIAL])


def _vector(path: Path, width: int) -> Tensor:
    try:
        vector = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FeatureError("no such file", path=path) from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        why = first_line(error)
        raise FeatureError(f"damaged: {why}", path=path) from error
    if not isinstance(vector, Tensor) or not vector.is_floating_point():
        raise FeatureError("holds no vector", path=path)
    if tuple(vector.shape) != (1, width):
        raise FeatureError(f"holds shape {tuple(vector.shape)}, expected (1, {width})", path=path)
    return vector[0].clone()  # not the batch it may be a view of
