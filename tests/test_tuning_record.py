"""One measurement as a line of JSON."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tuning_tools import CONV, HOST, MATMUL, record

from tvmquant.schedules.workload import Workload
from tvmquant.tuning.record import (
    Processor,
    Record,
    config_key,
    instruction_set,
    workload_from_dict,
    workload_to_dict,
)

SIZES = st.lists(st.integers(1, 99), min_size=2, max_size=4).map(tuple)


@settings(max_examples=25, deadline=None)
@given(
    SIZES,
    SIZES,
    st.sampled_from([8, 4, 2, 1]),
    st.booleans(),
    st.dictionaries(st.text(max_size=3), st.integers()),
    st.one_of(st.none(), st.floats(1e-9, 10)),
)
def test_a_line_gives_the_record_back(x_shape, w_shape, bits, proven, config, seconds):
    workload = Workload("matmul", x_shape, w_shape, w_bits=bits, no_saturation=proven)
    made = record(seconds, workload, config=config, error="é\n")
    line = made.to_json()
    assert "\n" not in line
    assert Record.from_json(line) == made


def test_fields_at_their_default_are_left_out():
    assert workload_to_dict(MATMUL) == {"op": "matmul", "x_shape": [6, 32], "w_shape": [48, 32]}
    assert workload_from_dict(workload_to_dict(CONV)) == CONV
    with pytest.raises(TypeError):
        workload_from_dict({**workload_to_dict(CONV), "colour": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"seconds": -1},
        {"seconds": "fast"},
        {"processor": None},
        {"workload": {"op": "matmul"}},
        {"config": 3},
    ],
)
def test_damaged_lines_are_refused(change):
    line = json.dumps({**json.loads(record().to_json()), **change})
    with pytest.raises((ValueError, KeyError, TypeError)):
        Record.from_json(line)


def test_config_key_ignores_the_order():
    assert config_key({"b": 1, "a": [2]}) == config_key({"a": [2], "b": 1}) == '{"a":[2],"b":1}'


def test_a_device_with_features_removed_is_another_processor():
    lesser = HOST.without(*sorted(HOST.features)[:1])
    assert Processor.of(lesser) != Processor.of(HOST)
    assert Processor.of(lesser).cpu != Processor.of(HOST).cpu


def test_generic_processors_differ_by_their_vectors():
    bare = HOST.without(*HOST.features)
    assert instruction_set(bare) == "generic"
    assert instruction_set(HOST) == (HOST.isa if HOST.isa != "generic" else "sse")
