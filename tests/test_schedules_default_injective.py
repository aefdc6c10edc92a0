"""Elementwise operators and data movement, on bytes above all."""

import re

import numpy as np
import pytest
from run_relax import build_module, check_case, const, run, schedule
from tvm import relax

from tvmquant.ops import make_call, waist
from tvmquant.targets import get_device

R = relax.op
rng = np.random.default_rng(0)
TABLE = rng.integers(0, 256, 256).astype(np.uint8)


def f32(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def u8(*shape):
    return rng.integers(0, 256, shape).astype(np.uint8)


def depth_to_space(emit, x):
    x = emit(R.reshape(x, [1, 6, 8, 2, 2, 4]))
    x = emit(R.permute_dims(x, [0, 1, 3, 2, 4, 5]))
    return R.reshape(x, [1, 12, 16, 4])


def depth_to_space_meaning(x):
    return x.reshape(1, 6, 8, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5).reshape(1, 12, 16, 4)


MOVEMENT = {
    "reshape": (lambda _, x: R.reshape(x, [6, 8, 16]), lambda x: x.reshape(6, 8, 16)),
    "to_nchw": (
        lambda _, x: R.permute_dims(x, [0, 3, 1, 2]),
        lambda x: x.transpose(0, 3, 1, 2),
    ),
    "reverse_axes": (lambda _, x: R.permute_dims(x), np.transpose),
    "slice": (
        lambda _, x: R.strided_slice(x, [1, 3], [1, 3], [6, 15], [2, 3]),
        lambda x: x[:, 1:6:2, :, 3:15:3],
    ),
    "concat": (lambda _, x: R.concat([x, x, x], 3), lambda x: np.concatenate([x, x, x], 3)),
    "concat_rows": (lambda _, x: R.concat([x, x], 1), lambda x: np.concatenate([x, x], 1)),
    "squeeze": (lambda _, x: R.squeeze(x, [0]), lambda x: x[0]),
    "expand_dims": (lambda _, x: R.expand_dims(x, [2]), lambda x: np.expand_dims(x, 2)),
    "pad": (
        lambda _, x: R.nn.pad(x, [0, 0, 1, 2, 3, 0, 0, 5], pad_value=9),
        lambda x: np.pad(x, ((0, 0), (1, 2), (3, 0), (0, 5)), constant_values=9),
    ),
    "take": (
        lambda _, x: R.take(x, const(np.array([3, 0, 3])), axis=1),
        lambda x: x[:, [3, 0, 3]],
    ),
    "broadcast_to": (
        lambda _, x: R.broadcast_to(x, [4, 6, 8, 16]),
        lambda x: np.tile(x, (4, 1, 1, 1)),
    ),
    "tile": (lambda _, x: R.tile(x, [1, 2, 1, 3]), lambda x: np.tile(x, (1, 2, 1, 3))),
    "flip": (lambda _, x: R.flip(x, 2), lambda x: x[:, :, ::-1]),
    "maximum": (lambda _, x: R.maximum(x, const(np.uint8(90))), lambda x: np.maximum(x, 90)),
    "minimum": (lambda _, x: R.minimum(x, const(np.uint8(90))), lambda x: np.minimum(x, 90)),
    "depth_to_space": (depth_to_space, depth_to_space_meaning),
}


@pytest.mark.parametrize("name", MOVEMENT)
def test_data_movement_on_bytes(name):
    body, meaning = MOVEMENT[name]
    x = u8(1, 6, 8, 16)
    got, want = run([x], body), meaning(x)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, want)


def test_split_on_bytes():
    x = u8(1, 6, 8, 16)
    got = run([x], lambda _, v: R.split(v, [5, 9], 3))
    for part, want in zip(got, np.split(x, [5, 9], 3)):
        np.testing.assert_array_equal(part, want)


def quantize_image(emit, x):
    return waist.quantize(
        emit(R.permute_dims(x, [0, 2, 3, 1])),
        const(np.float32(0.02)),
        const(np.uint8(128)),
        bits=8,
        qmin=0,
        qmax=255,
        dtype="uint8",
    )


def bias_relu(emit, x, bias):
    return R.nn.relu(emit(R.add(x, emit(R.reshape(bias, [1, 24, 1, 1])))))


def channel_shuffle(emit, x):
    x = emit(R.permute_dims(emit(R.reshape(x, [1, 5, 5, 2, 18])), [0, 1, 2, 4, 3]))
    return R.reshape(x, [1, 5, 5, 36])


def doubled_selections(emit, x):
    """Each step reads the one before twice: inlining all of it would never end."""
    for bound in range(12):
        limit = const(np.float32(bound))
        x = emit(R.where(emit(R.greater(x, limit)), emit(R.subtract(x, limit)), x))
    return R.negative(x)


CASES = {
    "quantize_image": ([f32(1, 3, 40, 40)], quantize_image, "elementwise"),
    "bias_relu": ([f32(1, 24, 9, 9), f32(24)], bias_relu, "elementwise"),
    "gelu": ([f32(4, 96)], lambda _, x: R.nn.gelu(x), "elementwise"),
    "gather_rows": (
        [f32(50, 64), np.array([[3, 49, 0]])],
        lambda _, x, i: R.take(x, i, axis=0),
        "elementwise",
    ),
    "channel_shuffle": ([u8(1, 5, 5, 36)], channel_shuffle, "elementwise"),
    "doubled_selections": ([f32(4, 33)], doubled_selections, "elementwise"),
    "transpose_tiles": (
        [u8(1, 24, 24, 64)],
        lambda _, x: R.permute_dims(x, [0, 3, 1, 2]),
        "transpose",
    ),
    # Rows of the output 4 KiB apart: a tile may not have many of them.
    "transpose_into_one_set": (
        [f32(1, 32, 32, 24)],
        lambda _, x: R.permute_dims(x, [0, 3, 1, 2]),
        "transpose",
    ),
    "transpose_odd_tiles": ([f32(67, 131)], lambda _, x: R.permute_dims(x), "transpose"),
    "concat_channels": (
        [u8(1, 5, 5, 24), u8(1, 5, 5, 13)],
        lambda _, a, b: R.concat([a, b], 3),
        "partition",
    ),
    "pad_channels": (
        [u8(1, 5, 5, 24)],
        lambda _, x: R.nn.pad(x, [0, 0, 1, 1, 1, 1, 2, 3]),
        "partition",
    ),
    "lut_of_floats": (
        [u8(3, 7, 70)],
        lambda _, x: make_call("tvmquant.lut", [x, const(TABLE.astype(np.float32))], axis=0),
        "elementwise",
    ),
}


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("name", CASES)
def test_injective(name, threads):
    check_case(*CASES[name], threads)


@pytest.mark.parametrize("height,rows", [(32, 4), (30, 32)])
def test_rows_that_share_a_set_are_few(height, rows):
    mod = build_module([f32(1, height, 32, 32)], lambda _, x: R.permute_dims(x, [0, 3, 1, 2]))
    (loops,) = re.findall(r"T\.grid\((.*)\):", schedule(mod, get_device("host")).script())
    assert [int(n) for n in re.findall(r"T\.int64\((\d+)\)", loops)][-2:] == [rows, 32]
