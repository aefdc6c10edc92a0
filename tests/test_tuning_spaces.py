"""Whatever the tuner may choose computes the same: all rules, sampled configurations."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tuning_tools import CONV, HOST

from tvmquant.schedules.linear import cannot_saturate
from tvmquant.schedules.meaning import integer_layer
from tvmquant.schedules.registry import named_rules
from tvmquant.schedules.space import ConfigError, configs_of, configured, estimate_of
from tvmquant.schedules.winograd import weight_bound
from tvmquant.schedules.workload import Workload
from tvmquant.tuning.candidates import candidates
from tvmquant.tuning.data import make_case
from tvmquant.tuning.pool import InProcess
from tvmquant.tuning.session import Job

FLOAT = {"x_bits": 32, "w_bits": 32, "requantize": "float32"}
WIDE = Workload("conv2d", (1, 9, 11, 20), (72, 3, 3, 20), (1, 1), (1, 1, 1, 1), (1, 1))
LARGE = Workload("conv2d", (1, 12, 12, 64), (64, 3, 3, 64), (1, 1), (1, 1, 1, 1), (1, 1))
DEPTHWISE = Workload(
    "depthwise_conv2d", (1, 9, 11, 40), (40, 3, 3, 1), (2, 2), (1, 1, 1, 1), (1, 1), groups=40
)
WEIGHT_ONLY = Workload(
    "matmul_weight_only", (7, 96), (50, 96), **FLOAT | {"w_bits": 4}, group_size=32
)
WORKLOADS = {
    "w8a8": WIDE,
    "w8a8 proven": replace(WIDE, no_saturation=True),
    "winograd": replace(LARGE, max_abs_sum=8192),
    "winograd w4a4": replace(LARGE, max_abs_sum=2048, w_bits=4, x_bits=4),
    "lookup w2a2": replace(LARGE, w_bits=2, x_bits=2),
    "popcount w1a1": replace(LARGE, w_bits=1, x_bits=1),
    "w4a8": replace(WIDE, w_bits=4),
    "w4a4": replace(WIDE, w_bits=4, x_bits=4),
    "w2a2": replace(WIDE, w_bits=2, x_bits=2),
    "w1a1": replace(WIDE, w_bits=1, x_bits=1),
    "grouped": replace(WIDE, w_shape=(72, 3, 3, 10), groups=2, strides=(2, 1)),
    "matmul": Workload("matmul", (7, 96), (50, 96), requantize="dequantize"),
    "heavy": Workload("conv2d", (1, 3, 3, 256), (512, 1, 1, 256), (1, 1), (0,) * 4, (1, 1)),
    "depthwise": DEPTHWISE,
    "depthwise w4a4": replace(DEPTHWISE, w_bits=4, x_bits=4, strides=(1, 1)),
    "float": replace(WIDE, op="conv2d_float", **FLOAT),
    "depthwise float": replace(DEPTHWISE, op="depthwise_conv2d_float", **FLOAT),
    "matmul float": Workload("matmul_float", (7, 96), (50, 96), **FLOAT),
    "weight only": replace(WEIGHT_ONLY, zero_points=True),
    "weight only, whole channels": replace(WEIGHT_ONLY, group_size=0, w_bits=2),
}


def expected(workload):
    """The NumPy reference on the data that the tuner measures with."""
    case = make_case(workload)
    return integer_layer(workload, case.x, case.weight, case.bias, case.params, case.qinfo)


def sample(space, count=4):
    """Every rule's default and some of the others."""
    others = [c for c in space if not c.default]
    chosen = np.random.default_rng(len(space)).permutation(len(others))[:count]
    return [c for c in space if c.default] + [others[i] for i in chosen]


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_choice_gives_the_reference(name, tmp_path):
    workload = WORKLOADS[name]
    path = tmp_path / "reference.npz"
    if make_case(workload).qinfo is not None:
        np.savez(path, expected(workload))
    inside = InProcess()
    for candidate in sample(candidates(workload, HOST)):
        job = Job(workload, HOST, candidate.rule, candidate.config, str(path))
        ((handle, error),) = inside.build([job])
        assert error == "", candidate
        inside.drop([handle])


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_first_configuration_is_the_default(name):
    workload = WORKLOADS[name]
    for rule in named_rules(workload.op).values():
        kernel = rule(workload, HOST)
        configs = [] if kernel is None else configs_of(kernel)
        if not configs:
            continue
        assert json.loads(json.dumps(configs)) == configs
        keys = [json.dumps(config, sort_keys=True) for config in configs]
        assert len(set(keys)) == len(keys)
        same = configured(kernel, configs[0])
        case = make_case(workload)
        for a, b in zip(
            kernel.pack(case.weight, case.bias, case.params),
            same.pack(case.weight, case.bias, case.params),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
        assert same.prim_func().script() == kernel.prim_func().script()
        estimates = [estimate_of(kernel, config) for config in configs]
        assert None in estimates or np.isfinite(estimates).all()


@pytest.mark.parametrize("name", WORKLOADS)
def test_sizes_that_do_not_fit_are_refused(name):
    workload = WORKLOADS[name]
    for rule in named_rules(workload.op).values():
        kernel = rule(workload, HOST)
        if kernel is None or configs_of(kernel) in ([], [{}]):
            continue
        good = configs_of(kernel)[0]
        for bad in ({"no": 1}, good | {"no": 1}, {k: 10**6 for k in good}, {k: 0 for k in good}):
            with pytest.raises(ConfigError):
                configured(kernel, bad)


def test_a_kernel_without_sizes_takes_none():
    class Plain:
        name = "plain"

    assert configs_of(Plain()) == [{}] and estimate_of(Plain(), {}) is None
    plain = Plain()
    assert configured(plain, {}) is plain
    with pytest.raises(ConfigError, match="plain has no sizes"):
        configured(plain, {"rows": 1})


def test_tuned_layers_keep_work_for_all_threads():
    large = Workload("conv2d", (1, 56, 56, 64), (64, 3, 3, 64), (1, 1), (1,) * 4, (1, 1))
    for rule in named_rules("conv2d").values():
        kernel = rule(large, HOST)
        tilings = [
            kernel.with_config(c).plan.tiling
            for c in configs_of(kernel)
            if hasattr(getattr(kernel, "plan", None), "tiling")
        ]
        assert all(t.parallel and t.chunks * t.block_chunks >= 8 for t in tilings)


def test_measuring_data_has_what_the_workload_claims():
    for workload in WORKLOADS.values():
        case = make_case(workload)
        assert case.x.shape == workload.x_shape and case.weight.shape == workload.w_shape
        if workload.w_bits > 8:
            continue
        if workload.x_bits == 32:
            assert case.x.dtype == case.params[0].dtype == np.float32
        else:
            assert int(case.x.max()) == 2**workload.x_bits - 1
        low, high = case.weight.min(), case.weight.max()
        if workload.w_bits == 1:
            assert set(np.unique(case.weight)) == {-1, 1}
        else:
            assert -(2 ** (workload.w_bits - 1)) <= low and high < 2 ** (workload.w_bits - 1)
        if workload.max_abs_sum is not None:
            assert weight_bound(case.weight) <= workload.max_abs_sum
        elif workload.w_bits == 8:
            assert cannot_saturate(case.weight) == workload.no_saturation
    again = make_case(CONV)
    np.testing.assert_array_equal(again.weight, make_case(CONV).weight)
