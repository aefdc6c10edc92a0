"""Values left over of several rows of the filter, gathered into one step."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_tools import expected, make_data, run
from test_schedules_linear import conv, on_every_device

from tvmquant.schedules.linear import DenseKernel
from tvmquant.schedules.linear.gathered import GatheredInput
from tvmquant.schedules.linear.geometry import Geometry, InputPlan
from tvmquant.schedules.linear.kernel import dense


def gathered(workload, step=4):
    dtype = "uint8" if step == 4 else "int16"
    return GatheredInput.of(InputPlan(Geometry.of(workload), step, dtype))


def test_steps_of_the_first_layer():
    plan = gathered(conv(1, 224, 224, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3)))
    assert (plan.left, plan.shared, plan.words, plan.steps) == (1, 4, 2, 7 * 5 + 2)
    assert len(plan.offsets) == plan.steps
    assert gathered(conv(1, 224, 224, 3, 64, (7, 7), (2, 2)), step=2).steps == 7 * 10 + 4
    assert gathered(conv(1, 32, 32, 3, 64, (3, 3), (2, 2))).steps == 3 * 2 + 1


@pytest.mark.parametrize(
    "workload",
    [
        conv(1, 32, 32, 4, 8, (3, 3), (2, 2)),  # nothing left over
        conv(1, 32, 32, 3, 8, (5, 5), (2, 2)),  # three values do not share a step
        conv(1, 32, 32, 3, 8, (1, 7), (2, 2)),  # one row only
        conv(1, 32, 32, 3, 8, (3, 3)),  # pixels of the output are too near
        conv(1, 32, 32, 3, 8, (7, 7), (3, 2)),  # the second step lies between output rows
        conv(1, 32, 32, 3, 8, (3, 3), (2, 2), dilation=(1, 2)),
    ],
)
def test_where_nothing_is_gathered(workload):
    assert gathered(workload) is None


@pytest.mark.parametrize("step", [4, 2])
def test_every_weight_meets_its_value(step):
    workload = conv(1, 17, 19, 3, 8, (7, 7), (2, 2), (3, 3, 3, 3))
    plan = gathered(workload, step)
    index = plan.weight_index
    assert index.shape == (plan.steps, step)
    found = index[index >= 0]
    assert sorted(found) == list(range(7 * 7 * 3))
    # What is not gathered is read where the pixel's window has it.
    whole = plan.steps - plan.words
    row, rest = np.divmod(index[:whole], 21)
    places = row * plan.size[1] * 3 + rest
    np.testing.assert_array_equal(places, plan.offsets[:whole, None] + np.arange(step))


@st.composite
def layers(draw):
    channels, kernel = draw(st.sampled_from([(3, 3), (3, 7), (1, 5), (5, 1), (6, 3), (2, 5)]))
    strides = (draw(st.integers(1, 2)), draw(st.integers(1, 4)))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(4))
    return conv(
        draw(st.integers(1, 2)),
        draw(st.integers(14, 18)),
        draw(st.integers(7, 16)),
        channels,
        draw(st.sampled_from([4, 10, 16, 24])),
        (draw(st.integers(2, 7)), kernel),
        strides,
        padding,
        dilation=(draw(st.integers(1, 2)), 1),
        w_bits=draw(st.sampled_from([8, 8, 4, 2])),
        no_saturation=draw(st.booleans()),
    )


@on_every_device
@settings(max_examples=12, deadline=None)
@given(workload=layers(), seed=st.integers(0, 99))
@example(workload=conv(1, 21, 18, 3, 24, (7, 7), (2, 2), (3, 3, 3, 3)), seed=1)
@example(workload=conv(2, 14, 14, 3, 16, (3, 3), (2, 2), (0, 0, 1, 1), w_bits=4), seed=2)
def test_gathered_equals_reference(device, workload, seed):
    kernel = dense(workload, device)
    source = kernel.plan.input
    plain = InputPlan(source.geometry, source.step, source.dtype)
    made = GatheredInput.of(plain)
    if made is not None and not (workload.no_saturation and workload.w_bits == 8):
        # Whatever the model prefers: every layer that can be gathered is.
        kernel.__dict__["plan"] = replace(kernel.plan, input=made)
    data = make_data(workload, seed)
    np.testing.assert_array_equal(run(kernel, device, *data), expected(workload, *data))


def test_the_first_layer_of_a_network_is_gathered():
    workload = conv(1, 112, 112, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3))
    for isa in ("avx512_vnni", "avx2"):
        assert isinstance(DenseKernel(workload, isa).plan.input, GatheredInput)
    # Values of several rows meet in one saturating sum: nobody has looked at those weights.
    proven = DenseKernel(replace(workload, no_saturation=True), "avx2").plan
    assert proven.isa.name == "avx2_maddubs" and not isinstance(proven.input, GatheredInput)
