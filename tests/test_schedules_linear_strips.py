"""Taps outside the image: which tiles leave them out, and that the results stay exact."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_tools import expected, make_data, run
from test_schedules_linear import HOST, conv, on_every_device

from tvmquant.schedules.linear import DenseKernel
from tvmquant.schedules.linear.kernel import dense
from tvmquant.schedules.linear.packing import border_sums
from tvmquant.schedules.linear.strips import Axis, Patch, merged
from tvmquant.schedules.linear.tiling import Sizes
from tvmquant.schedules.space import ConfigError

PADS = (1, 1, 1, 1)


def check(kernel, device, seed):
    data = make_data(kernel.workload, seed)
    np.testing.assert_array_equal(run(kernel, device, *data), expected(kernel.workload, *data))


@st.composite
def axes(draw):
    kernel, stride, dilation = (draw(st.integers(1, n)) for n in (5, 3, 3))
    reach = (kernel - 1) * dilation + 1
    pad, behind = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    extent = draw(st.integers(max(1, reach - pad - behind), 14))
    out = (extent + pad + behind - reach) // stride + 1
    return Axis(out, extent, kernel, stride, dilation, pad, True)


@settings(max_examples=200, deadline=None)
@given(axis=axes(), tile=st.integers(1, 5))
def test_strips_name_every_tap_inside_the_image(axis, tile):
    seen = []
    for strip in axis.strips(min(tile, axis.out)):
        for index in range(strip.first, strip.first + strip.count):
            for i in range(strip.size):
                pixel = index * min(tile, axis.out) + i
                start = pixel * axis.stride - axis.pad
                inside = [
                    tap
                    for tap in range(axis.kernel)
                    if 0 <= start + tap * axis.dilation < axis.extent
                ]
                assert [tap for tap, used in enumerate(strip.taps) if i in used] == inside
                left_out = axis.borders[strip.borders[i]]
                assert sorted([*inside, *left_out]) == list(range(axis.kernel))
                seen.append(pixel)
    assert seen == list(range(axis.out))


@settings(max_examples=100, deadline=None)
@given(axis=axes())
def test_merged_rows_know_their_taps(axis):
    strips = merged(axis, 1)
    assert len(strips) == 1
    ends = [*(each.first for each in strips[0].ranges[1:]), axis.out]
    for each, end in zip(strips[0].ranges, ends):
        for pixel in range(each.first, end):
            left_out = [*range(each.start), *range(each.end, axis.kernel)]
            assert list(axis.borders[each.border]) == left_out


def test_patches_share_what_they_can():
    source = dense(conv(1, 7, 7, 64, 64, (3, 3), padding=PADS), HOST).plan.input
    source = replace(source, trim=(True, True))
    assert source.in_place and not source.copied
    assert source.origin == (7 + 1) * 64
    kinds = source.patches(2, 7)
    assert [(p.rows.first, p.rows.count, p.rows.size) for p in kinds] == [
        (0, 1, 2),
        (1, 2, 2),
        (3, 1, 1),
    ]
    used = [sum(len(part.pixels) * part.count for part in s.parts) for s in source.sweeps(kinds[1])]
    assert used == [2 * (6 + 7 + 6) * source.steps // 9]
    assert len(source.patches(1, 7)) == 1
    assert isinstance(source.patches(1, 4)[0], Patch)


def test_border_sums_count_the_weights_left_out():
    source = replace(
        dense(conv(1, 5, 4, 4, 6, (3, 2), padding=(1, 0, 0, 1)), HOST).plan.input,
        trim=(True, True),
    )
    weight = np.random.default_rng(0).integers(-128, 128, (6, 3, 2, 4)).astype(np.int8)
    assert source.borders == [((), ()), ((), (1,)), ((0,), ()), ((0,), (1,))]
    sums = border_sums(weight, source, 8).reshape(4, 8)
    taps = weight.sum(axis=3, dtype=np.int32)
    np.testing.assert_array_equal(sums[0], 0)
    np.testing.assert_array_equal(sums[1, :6], taps[:, :, 1].sum(axis=1))
    np.testing.assert_array_equal(sums[2, :6], taps[:, 0].sum(axis=1))
    np.testing.assert_array_equal(sums[3, :6], taps[:, 0].sum(axis=1) + taps[:, 1:, 1].sum(axis=1))
    assert (sums[:, 6:] == 0).all()


@st.composite
def padded(draw):
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    strides = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding = tuple(draw(st.integers(0, 4)) for _ in range(4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    h = draw(st.integers(max(1, reach[0] - padding[0] - padding[2]), 9))
    w = draw(st.integers(max(1, reach[1] - padding[1] - padding[3]), 9))
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    return conv(
        draw(st.integers(1, 2)),
        h,
        w,
        draw(st.sampled_from([4, 8, 16, 32, 48])) * groups,
        draw(st.sampled_from([4, 10, 16, 40])) * groups,
        kernel,
        strides,
        padding,
        dilation=dilation,
        groups=groups,
        x_bits=draw(st.sampled_from([8, 8, 4])),
        w_bits=draw(st.sampled_from([8, 8, 4, 2, 1])),
        no_saturation=draw(st.booleans()),
    )


@on_every_device
@settings(max_examples=12, deadline=None)
@given(
    workload=padded(), rows=st.integers(1, 3), columns=st.integers(1, 8), seed=st.integers(0, 99)
)
@example(workload=conv(1, 7, 7, 64, 40, (3, 3), padding=PADS), rows=2, columns=7, seed=0)
@example(workload=conv(1, 7, 7, 64, 40, (3, 3), padding=PADS), rows=1, columns=7, seed=1)
@example(workload=conv(2, 6, 5, 64, 16, (3, 3), padding=PADS, w_bits=4), rows=1, columns=3, seed=2)
@example(workload=conv(1, 6, 6, 48, 16, (3, 3), padding=PADS, w_bits=2), rows=2, columns=2, seed=3)
@example(workload=conv(1, 2, 2, 16, 8, (3, 3), padding=(4, 4, 4, 4)), rows=1, columns=4, seed=4)
@example(workload=conv(1, 2, 2, 16, 8, (3, 3), padding=(4, 4, 4, 4)), rows=2, columns=2, seed=5)
def test_conv2d_equals_reference_whatever_the_tiles(device, workload, rows, columns, seed):
    out = workload.out_shape[1:3]
    sizes = Sizes(min(rows, out[0]), min(columns, out[1]), 1, 8)
    try:
        kernel = replace(dense(workload, device), sizes=sizes)
        kernel.plan
    except ConfigError:  # pixels of a column that became a row
        kernel = dense(workload, device)
    check(kernel, device, seed)


@on_every_device
@pytest.mark.parametrize("bits", [8, 4])
def test_padding_is_left_out_of_small_images(device, bits):
    workload = conv(1, 7, 7, 64, 32, (3, 3), padding=PADS, w_bits=bits)
    kernel = dense(workload, device)
    plan = kernel.plan
    assert plan.input.trim == (True, True)
    assert plan.border_count == 9
    _, w, bias, params, _ = make_data(workload)
    assert kernel.pack(w, bias, params)[-1].shape == (9 * plan.param_count,)
    check(kernel, device, 0)


def test_leaving_out_is_expected_to_be_faster():
    sizes = Sizes(1, 7, 2, 8)
    padded = DenseKernel(conv(1, 7, 7, 64, 64, (3, 3), padding=PADS), "avx512_vnni", sizes)
    plain = DenseKernel(conv(1, 9, 9, 64, 64, (3, 3)), "avx512_vnni", sizes)
    assert padded.plan.tiling == plain.plan.tiling

    def steps(kernel):
        source, tiling = kernel.plan.input, kernel.plan.tiling
        return sum(
            patch.rows.count
            * patch.columns.count
            * sum(
                sweep.rows(patch.rows.count) * part.count * len(part.pixels)
                for sweep in source.sweeps(patch)
                for part in sweep.parts
            )
            for patch in source.patches(tiling.rows, tiling.columns)
        )

    # 19 of 21 rows and 19 of 21 columns of taps are inside.
    assert steps(padded) == pytest.approx(steps(plain) * (19 / 21) ** 2)
