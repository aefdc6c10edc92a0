"""The order in which candidates are measured, and the models behind it."""

import numpy as np
import pytest
from tuning_tools import CONV, HOST, MATMUL, fake_seconds, registered, wrong

from tvmquant.errors import InputError
from tvmquant.tuning import cost_model
from tvmquant.tuning.candidates import Candidate, candidates
from tvmquant.tuning.cost_model import AnalyticModel, XgbModel, make_cost_model
from tvmquant.tuning.features import features
from tvmquant.tuning.search import next_batch


def test_candidates_begin_with_what_is_used_anyway():
    with registered(wrong):
        space = candidates(MATMUL, HOST)
    assert [c.default for c in space] == [True, True] + [False] * (len(space) - 2)
    assert [c.rule for c in space[:3]] == [space[2].rule, "tuning_tools.wrong", space[2].rule]
    assert space[0].estimate == 1.0 and space[1].estimate is None and space[1].config == {}
    assert len(set(space)) == len(space)


def test_defaults_are_measured_first_and_nothing_twice():
    space = candidates(CONV, HOST)
    rng = np.random.default_rng(0)
    untried, seen = list(space), []
    while untried:
        batch = next_batch(CONV, untried, AnalyticModel(), 7, rng)
        assert 0 < len(batch) <= 7
        seen += batch
        untried = [c for c in untried if c not in batch]
    assert seen[0] == space[0] and len(seen) == len(set(seen)) == len(space)


def test_the_cheapest_estimates_come_early():
    space = candidates(CONV, HOST)
    batch = next_batch(CONV, space, AnalyticModel(), 8, np.random.default_rng(1))
    cheapest = sorted(c.estimate for c in space[1:])[: len(space) // 2]
    early = [c.estimate in cheapest for c in batch[1:]]
    assert sum(early) >= len(early) // 2


def test_features_are_finite_numbers():
    for workload in (MATMUL, CONV):
        for candidate in candidates(workload, HOST):
            values = features(workload, candidate)
            assert all(np.isfinite(v) for v in values.values())
            assert values[f"rule:{candidate.rule}"] == 1 and "config:rows" in values
    odd = Candidate("r", {"mode": "fast", "steps": [1, 2], "on": True}, float("inf"), False)
    assert "estimate" not in features(MATMUL, odd)
    assert np.isfinite(list(features(MATMUL, odd).values())).all()


def test_a_trained_model_ranks_another_layer():
    pytest.importorskip("xgboost")
    other = CONV.__class__("conv2d", (1, 8, 8, 16), (40, 3, 3, 16), *[(1, 1)] * 1, (1,) * 4, (1, 1))
    model = XgbModel()
    space = candidates(other, HOST)
    untrained = model.scores(other, space)
    np.testing.assert_array_equal(untrained, AnalyticModel().scores(other, space))
    learned = candidates(CONV, HOST)
    model.update(CONV, {c: fake_seconds(c.config) for c in learned})
    times = np.array([fake_seconds(c.config) for c in space])
    order = np.argsort(-model.scores(other, space))
    # Rank correlation with the truth, which the estimates do not know.
    ranks = np.argsort(order), np.argsort(np.argsort(times))
    assert np.corrcoef(*ranks)[0, 1] > 0.8


def test_cost_models_by_name(monkeypatch):
    assert isinstance(make_cost_model("analytic"), AnalyticModel)
    with pytest.raises(InputError, match="'random': use one of auto, xgb, analytic"):
        make_cost_model("random")
    monkeypatch.setattr(cost_model, "has_xgboost", lambda: False)
    assert isinstance(make_cost_model("auto"), AnalyticModel)
    with pytest.raises(InputError, match=r"pip install -e '\.\[tune\]'"):
        make_cost_model("xgb")
