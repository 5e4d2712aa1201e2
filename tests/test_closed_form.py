"""Kernel regression and its fit: the formulas against brute force, and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ma_agiqa.errors import UsageError
from ma_agiqa.experts import words
from ma_agiqa.experts.closeness import taking_part
from ma_agiqa.experts.compact import CompactExpert, reduced
from ma_agiqa.experts.kernel import LIMIT, KernelRegression, limit, matern, squared_distances
from ma_agiqa.experts.statistics import GROUPS, WIDTH
from ma_agiqa.training.closed_form import _closeness, _components, arguments_of, fit
from ma_agiqa.training.recipe import ClosedForm
from ma_agiqa.training.regression import left_out, regress, standard, weigh

OWN = {name: size for name, size in GROUPS.items() if name != "words"}


def described(n: int, copies: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Return statistics that a score depends on, severities and scores 0 to 5."""
    rng = np.random.default_rng(seed)
    hidden = rng.uniform(-1, 1, n)
    severity = rng.uniform(0.1, 1, (n, copies))
    level = np.concatenate([hidden[:, None], hidden[:, None] - 2 * severity], 1)
    direction = rng.standard_normal(WIDTH)
    values = level[:, :, None] * direction + 0.3 * rng.standard_normal((n, 1 + copies, WIDTH))
    scores = 2.5 + 2 * hidden
    return torch.from_numpy(values).float(), torch.from_numpy(severity).float(), scores


def test_the_kernel_is_a_matern_of_smoothness_three_halves() -> None:
    r = torch.tensor([0.0, 0.5, 2.0])
    expected = (1 + np.sqrt(3) * r.numpy()) * np.exp(-np.sqrt(3) * r.numpy())
    # The small constant under the root costs 1e-4 squared at most.
    np.testing.assert_allclose(matern(r**2), expected, atol=1e-6)


def test_distances_are_those_of_torch() -> None:
    a, b = torch.randn(5, 7), torch.randn(3, 7)
    torch.testing.assert_close(squared_distances(a, b).sqrt(), torch.cdist(a, b))


def test_what_is_like_nothing_seen_gets_the_constant() -> None:
    regression = KernelRegression(statistics=4, rank=2, supports=3)
    regression.weight.fill_(1.0)
    regression.projection.normal_()
    regression.support.fill_(100.0)
    regression.dual.fill_(5.0)
    regression.constant.fill_(2.5)
    assert regression(torch.randn(6, 4)).flatten().tolist() == pytest.approx([2.5] * 6)


def test_leave_one_out_is_what_refitting_without_the_picture_gives() -> None:
    values, _, scores = described(12, 0)
    x, y = values[:, 0, : sum(OWN.values())], torch.from_numpy(scores)
    error = weigh(x, y[:, None], OWN, ClosedForm(steps=1))[2]
    start = float(np.exp(-np.log(len(OWN)) - 1.0))
    parts = [
        squared_distances(part, part) / (2 * part.var(0).sum())
        for part in x.split(list(OWN.values()), 1)
    ]
    kernel = matern(start * torch.stack(parts).sum(0)).double()
    centred = y - y.mean()
    brute = []
    for i in range(12):
        keep = [j for j in range(12) if j != i]
        system = kernel[keep][:, keep] + np.exp(-2.0) * torch.eye(11)
        brute.append(centred[i] - kernel[i, keep] @ torch.linalg.solve(system, centred[keep]))
    # Float32 factorisation against float64 systems.
    assert error == pytest.approx(float(torch.stack(brute).square().mean()), rel=1e-3)


def test_words_are_reduced_to_their_principal_components() -> None:
    values, _, _ = described(20, 0)
    of_words = values[:, 0, -words.SIZE :]
    found = _components(of_words, 4)
    centred = (of_words - of_words.mean(0)).double()
    _, lengths, directions = torch.linalg.svd(centred, full_matrices=False)
    for mine, his in zip(found.directions.T.double(), directions[:4], strict=True):
        assert abs(float(mine @ his)) == pytest.approx(1, abs=1e-6)
    spread = found(of_words).double().norm(dim=0)
    torch.testing.assert_close(spread, lengths[:4], rtol=1e-5, atol=0)


def test_components_of_words_keep_their_proportions() -> None:
    values, severity, scores = described(60, 0)
    expert, _ = fit(values, severity, scores, ClosedForm(steps=2, rank=8, components=5), low=0.0)
    assert expert.words.directions.shape == (words.SIZE, 5)
    assert len(expert.regression.scale[-5:].unique()) == 1
    assert len(expert.regression.scale[:-5].unique()) > 1000


def test_without_components_the_words_have_no_say() -> None:
    values, severity, scores = described(60, 1)
    expert, _ = fit(values, severity, scores, ClosedForm(steps=2, rank=8, components=0), low=0.0)
    other = values[:, 0].clone()
    other[:, -words.SIZE :] = 0
    assert torch.equal(expert.judge(other), expert.judge(values[:, 0]))


def test_the_fit_predicts_pictures_it_has_not_seen() -> None:
    values, severity, scores = described(160, 1)
    expert, _ = fit(values[:120], severity[:120], scores[:120], ClosedForm(copies=1), low=0.0)
    predicted = expert.judge(values[120:, 0]).numpy()
    assert np.corrcoef(predicted, scores[120:])[0, 1] > 0.9


def test_damaged_copies_come_out_below_their_pictures() -> None:
    values, severity, scores = described(160, 2)
    expert, _ = fit(values[:120], severity[:120], scores[:120], ClosedForm(copies=2), low=0.0)
    plain, first, second = (expert.judge(values[120:, view]) for view in range(3))
    assert (first < plain).float().mean() > 0.9
    assert (second < plain).float().mean() > 0.9


def test_the_same_fit_twice_is_the_same_to_the_last_bit() -> None:
    values, severity, scores = described(40, 1)
    recipe = ClosedForm(copies=1, steps=5, rank=16)
    once, twice = (fit(values, severity, scores, recipe, low=0.0)[0].state_dict() for _ in range(2))
    assert all(torch.equal(once[name], twice[name]) for name in once)


def made_by(scores: np.ndarray) -> list[str]:
    """Return a generator that the statistics of `described` tell: by thirds of the scores."""
    return [str(third) for third in np.digitize(scores, np.quantile(scores, [1 / 3, 2 / 3]))]


def test_the_expert_tells_generators_apart_and_the_score_from_both() -> None:
    # No copies: in these made-up statistics damage looks like another generator.
    values, severity, scores = described(160, 0)
    origins = made_by(scores)
    recipe = ClosedForm(alike=0, copies=0)
    expert, _ = fit(
        values[:120], severity[:120], scores[:120], recipe, low=0.0, origins=origins[:120]
    )
    assert expert.origin is not None
    told = expert.origin(reduced(values[120:, 0], expert.words)).argmax(1).tolist()
    right = [str(number) == origin for number, origin in zip(told, origins[120:], strict=True)]
    assert np.mean(right) > 0.75
    assert np.corrcoef(expert.judge(values[120:, 0]).numpy(), scores[120:])[0, 1] > 0.9


def test_closeness_is_the_mahalanobis_distance_from_the_best_rated() -> None:
    values, _, scores = described(200, 0)
    x = values[:, 0]
    closeness = _closeness(x, torch.from_numpy(scores))
    told = taking_part(x).numpy()
    assert told.shape[1] == 48 + 48 + 30
    # The tails are cut where there are a thousand pictures; here none is.
    limited = np.clip((told - told.mean(0)) / told.std(0, ddof=1), -LIMIT, LIMIT).astype(float)
    best = limited[np.argsort(-scores)[:40]]
    inverse = np.linalg.inv(np.cov(best.T) + 0.5 * np.eye(126))
    apart = limited - best.mean(0)
    distance = np.sqrt(np.einsum("ij,jk,ik->i", apart, inverse, apart) / 126)
    # Float32 statistics and whitening against float64.
    np.testing.assert_allclose(closeness.log_distance(x).exp(), distance, rtol=1e-4)
    slope, constant = np.polyfit(np.log(distance), scores, 1)
    assert slope < 0
    np.testing.assert_allclose(closeness.line, [constant, slope], rtol=1e-3)


def test_closeness_has_its_share_in_the_score() -> None:
    values, severity, scores = described(60, 1)
    recipes = [ClosedForm(copies=1, steps=3, rank=8, share=share) for share in (0.4, 0.0)]
    with_it, without = (fit(values, severity, scores, r, low=0.0)[0] for r in recipes)
    assert without.closeness is None
    assert with_it.closeness is not None
    x = values[:, 1]
    expected = 0.6 * without.judge(x) + 0.4 * with_it.closeness(x)
    torch.testing.assert_close(with_it.judge(x), expected)
    again = CompactExpert(**arguments_of(with_it))
    again.load_state_dict(with_it.state_dict())
    assert torch.equal(again.eval().judge(x), with_it.judge(x))


def test_what_is_said_of_a_picture_and_its_copies_leaves_them_out() -> None:
    values, _, scores = described(14, 2)
    onehot = torch.tensor([[o == n for n in "012"] for o in made_by(scores)]).double()
    targets = onehot[:, None].expand(-1, 3, -1)
    values = values[:, :, : sum(OWN.values())]
    recipe = ClosedForm(steps=3)
    regression, factor, _ = regress(values, targets, OWN, recipe, rank=6)
    told = left_out(factor, targets)
    every = values.transpose(0, 1).flatten(0, 1)
    mean, scale = standard(every)
    noise = weigh(limit(every, mean, scale)[:14], onehot, OWN, recipe)[1]
    doubt = torch.tensor([noise] * 14 + [noise * recipe.doubt] * 28).double()
    constant = onehot.mean(0)
    for i in range(14):
        out = [i, 14 + i, 28 + i]
        keep = [j for j in range(42) if j not in out]
        support = regression.support[keep]
        kernel = matern(squared_distances(support, support)).double() + torch.diag(doubt[keep])
        dual = torch.linalg.solve(kernel, onehot.repeat(3, 1)[keep] - constant)
        similar = matern(squared_distances(regression.support[out], support)).double()
        # Told in float32, the kernel too.
        torch.testing.assert_close(
            told[i].double(), constant + similar @ dual, atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("origins", "rank"), [((), 112), (["one"] * 30, 112), (["one", "two"] * 15, 0)]
)
def test_generators_are_not_asked_for_where_one_made_all_or_where_told_not_to(
    origins: list[str], rank: int
) -> None:
    values, severity, scores = described(30, 1)
    recipe = ClosedForm(copies=1, steps=2, rank=8, origin_rank=rank)
    expert, _ = fit(values, severity, scores, recipe, low=0.0, origins=origins)
    assert expert.origin is None


def test_pictures_and_copies_are_remembered_and_counted() -> None:
    values, severity, scores = described(30, 2)
    expert, _ = fit(values, severity, scores, ClosedForm(steps=2, rank=8), low=0.0)
    assert isinstance(expert, CompactExpert)
    assert expert.regression.support.shape == (90, 8)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"rank": 0}, {"components": -1}, {"origin_rank": -1}, {"fall": 1.5}, {"doubt": 0.0}),
        *({"copies": -1}, {"alike": -1}, {"share": 1.5}),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ClosedForm(**wrong)  # type: ignore[arg-type]
