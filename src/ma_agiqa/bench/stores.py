"""A feature store with some of another's questions, for trainings that take only those."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ma_agiqa.data.samples import Samples, require_images
from ma_agiqa.features.source import hash_files
from ma_agiqa.features.store import FeatureStore


def select_questions(store: Path, names: Sequence[str], samples: Samples, folder: Path) -> Path:
    """Copy the vectors to some questions of a data set's images; return the new store.

    What is there already is not copied again.

    Raises:
        FeatureError: a store is damaged, or has no vectors of an image.
        OutputError: the new one cannot be written.
    """
    source = FeatureStore.open(store)
    own = {question.name: question for question in source.header.questions}
    chosen = tuple(own[name] for name in names)
    target = folder / f"{source.header.fingerprint}-{'-'.join(q.fingerprint for q in chosen)}"
    header = dataclasses.replace(source.header, questions=chosen)
    copy = FeatureStore.create(target, header)
    require_images(samples)
    with copy.writer() as writer:
        for sha in copy.missing(hash_files(samples.path)):
            writer.add(sha, source.get([sha], questions=chosen)[0])
    return target
