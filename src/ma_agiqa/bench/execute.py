"""How each kind of model comes to predictions on the judged part of a split.

What does not learn here (a directory, a peer) scores the judged images of a data set once; all
splits share those scores, kept in OUT/scores. Trainings keep their runs in OUT/runs and go on
after a kill.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ma_agiqa import images, inference, presets
from ma_agiqa.bench import peers, stores
from ma_agiqa.bench.cells import Cell, Judgement, judgement
from ma_agiqa.bench.material import Material
from ma_agiqa.bench.models import DirectorySpec, PeerSpec, ProbeSpec, ScoresSpec, TrainSpec
from ma_agiqa.data.samples import require_images
from ma_agiqa.errors import UsageError
from ma_agiqa.evaluation import report as protocol
from ma_agiqa.evaluation.probe import features_of, fit_probe
from ma_agiqa.evaluation.report import (
    EvaluationReport,
    evaluate_predictions,
    evaluate_scores,
    scores_of,
    with_direction,
)
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.files import write_atomically
from ma_agiqa.models import checkpoint
from ma_agiqa.training.request import Observer, Source, TrainRequest
from ma_agiqa.training.run import train


@dataclass(frozen=True, eq=False)
class Bench:
    """What cells share: where files go, and what the grid says of all of them."""

    out: Path
    resamples: int
    device: str
    observer: Observer


Outcome = tuple[list[Judgement], dict[str, Any]]


def execute(cell: Cell, bench: Bench) -> Outcome:
    """Run a cell; return its judgements, its own split first, and details.

    Raises:
        MAAGIQAError: whatever keeps it from a result.
    """
    return RUNNERS[cell.model.kind](cell, bench)


def _directory(cell: Cell, bench: Bench) -> Outcome:
    spec = cell.model
    assert isinstance(spec, DirectorySpec)

    def score() -> dict[str, float]:
        scorer = inference.load(
            spec.model,
            device=bench.device,
            revision=spec.revision,
            store=spec.store,
            lmm=spec.lmm,
        )
        judged = cell.data.judged_anywhere()
        return dict(zip(judged.name, protocol.predict(scorer, judged).tolist(), strict=True))

    scores = _once(cell, bench, score)
    report = _report(cell.data, cell.split, scores, cell, bench)
    config = checkpoint.read_config(presets.find(spec.model, revision=spec.revision))
    seen = protocol.seen_in_training(
        config, cell.data.samples, cell.data.judged(cell.split), cell.data.spec.root
    )
    report = dataclasses.replace(report, caveats=(*report.caveats, *seen))
    return [judgement(cell.data, report)], {}


def _peer(cell: Cell, bench: Bench) -> Outcome:
    spec = cell.model
    assert isinstance(spec, PeerSpec)

    def score() -> dict[str, Any]:
        judged = cell.data.judged_anywhere()
        require_images(judged)
        peer = peers.Peer(spec.metric, device=bench.device)
        values, without = {}, []
        for name, path in zip(judged.name, judged.path, strict=True):
            try:
                values[name] = peer(images.read_bytes(path), name=str(path))
            except peers.NoScoreError:
                if not spec.fill_worst:
                    raise
                without.append(name)
        return {
            "values": peers.filled(values, without, lower_is_better=peer.lower_is_better),
            "without": without,
            "lower_is_better": peer.lower_is_better,
        }

    found = _once(cell, bench, score)
    negated = bool(found["lower_is_better"])
    scores = {name: -value if negated else value for name, value in found["values"].items()}
    report = _report(cell.data, cell.split, scores, cell, bench)
    told = with_direction(report, negated=negated)
    if count := len(set(report.names) & set(found["without"])):
        note = f"{spec.metric} gives no number for {count} of these images: they count as the worst"
        told = dataclasses.replace(told, caveats=(*told.caveats, note))
    return [judgement(cell.data, told)], {"lower_is_better": negated}


def _scores(cell: Cell, bench: Bench) -> Outcome:
    spec = cell.model
    assert isinstance(spec, ScoresSpec)
    report = evaluate_scores(
        spec.file,
        cell.data.samples,
        cell.data.splits[cell.split],
        cell.data.part,
        lower_is_better=spec.lower_is_better,
        target=cell.data.target,
        model=spec.name,
        resamples=bench.resamples,
    )
    return [judgement(cell.data, report)], {}


def _probe(cell: Cell, bench: Bench) -> Outcome:
    spec = cell.model
    assert isinstance(spec, ProbeSpec)
    store, vectors = FeatureStore.open(spec.store), spec.vectors or None
    split = cell.data.splits[cell.split]
    fitted = fit_probe(store, cell.data.samples, split, target=cell.data.target, vectors=vectors)

    def predict(data: Material, split: str) -> NDArray[np.float64]:
        chosen = data.samples.subset(data.judged(split))
        return fitted.predict(features_of(store, chosen, vectors))

    return list(_own_and_others(cell, bench, predict)), fitted.to_dict()


def _train(cell: Cell, bench: Bench) -> Outcome:
    spec, data = cell.model, cell.data
    assert isinstance(spec, TrainSpec)
    assert cell.seed is not None
    folder = bench.out / "runs" / cell.key
    store = spec.store
    if store is not None and spec.vectors:
        store = stores.select_questions(store, spec.vectors, data.samples, bench.out / "stores")
    request = TrainRequest(
        data=data.spec.data,
        root=data.spec.root,
        out=folder,
        recipe=spec.recipe_of(),
        model=spec.model,
        backbone=spec.backbone,
        store=store,
        network=spec.network,
        split=cell.split,
        target=data.target,
        seed=cell.seed,
        device=bench.device,
        precision=spec.precision,
        resume=(folder / "run.json").exists(),
        columns=data.spec.columns,
        also=tuple(Source.parse(text, split=cell.split) for text in spec.also),
    )
    directory = train(request, observer=bench.observer)
    scorer = inference.load(directory, device=bench.device, store=spec.store)

    def predict(other: Material, split: str) -> NDArray[np.float64]:
        return protocol.predict(scorer, other.samples.subset(other.judged(split)))

    return list(_own_and_others(cell, bench, predict)), {"model": str(directory)}


RUNNERS: dict[str, Callable[[Cell, Bench], Outcome]] = {
    "directory": _directory,
    "train": _train,
    "probe": _probe,
    "scores": _scores,
    "peer": _peer,
}


def _own_and_others(
    cell: Cell, bench: Bench, predict: Callable[[Material, str], NDArray[np.float64]]
) -> Iterator[Judgement]:
    """Judge on the cell's own split, then on the first split of each other data set."""
    places = [(cell.data, cell.split), *((o, next(iter(o.splits))) for o in cell.others)]
    for data, name in places:
        report = _judged(data, name, predict(data, name), cell, bench)
        yield judgement(data, report)


def _report(
    data: Material, split: str, scores: Mapping[str, float], cell: Cell, bench: Bench
) -> EvaluationReport:
    chosen = data.samples.subset(data.judged(split))
    return _judged(data, split, scores_of(scores, chosen, source=bench.out), cell, bench)


def _judged(
    data: Material, split: str, pred: NDArray[np.float64], cell: Cell, bench: Bench
) -> EvaluationReport:
    return evaluate_predictions(
        data.samples,
        data.splits[split],
        data.part,
        pred,
        target=data.target,
        model=cell.model.name,
        resamples=bench.resamples,
    )


def _once(cell: Cell, bench: Bench, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return scores of all judged images of a data set, from OUT/scores where they are."""
    same = {k: v for k, v in cell.settings.items() if k not in ("split", "resamples", "others")}
    same["tested"] = list(cell.data.splits)
    shared = dataclasses.replace(cell, split="all", settings=same)
    path = bench.out / "scores" / f"{shared.key}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["settings"] == json.loads(json.dumps(same)):
            return dict(kept["scores"])
    except (OSError, ValueError, KeyError):
        pass  # not there, or damaged by other hands: compute
    scores = compute()
    if not scores:
        raise UsageError(f"{cell.data.name} has no images in the {cell.data.part} part")
    write_atomically(path, json.dumps({"settings": same, "scores": scores}, indent=1) + "\n")
    return scores
