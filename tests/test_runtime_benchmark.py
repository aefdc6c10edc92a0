"""Benchmarks: counts and consistency, never a time."""

import json

import pytest

from tvmquant.errors import InputError
from tvmquant.runtime.benchmark import measure


def test_fields_are_consistent_and_json(tiny_model, tiny_inputs):
    result = tiny_model.benchmark(tiny_inputs, warmup=1, repeats=7)
    assert 0 < result.min_ms <= result.p10_ms <= result.median_ms <= result.p90_ms
    assert result.fps == pytest.approx(1e3 / result.median_ms)
    assert 0 < result.resident_memory_mb <= result.peak_memory_mb
    data = json.loads(json.dumps(result.to_dict()))
    assert (data["threads"], data["warmup"], data["repeats"]) == (1, 1, 7)


def test_runs_are_counted_and_reported():
    runs, seen = [], []
    measure(
        lambda: runs.append(1),
        warmup=2,
        repeats=3,
        threads=1,
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )
    assert len(runs) == 5
    assert seen == [("benchmark", 1, 3), ("benchmark", 2, 3), ("benchmark", 3, 3)]


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"warmup": -1}, {"threads": 0}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(InputError):
        measure(lambda: None, **{"warmup": 0, "repeats": 1, "threads": 1, **wrong})


def test_wrong_inputs_are_refused(tiny_model):
    with pytest.raises(InputError, match="missing"):
        tiny_model.benchmark({})
