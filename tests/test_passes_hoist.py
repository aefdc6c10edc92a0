"""Elementwise operators move before the moves that they read, whatever constants they have."""

from __future__ import annotations

import numpy as np
import pytest
from networks import assert_same_floats, operators
from run_relax import build_module, const
from tvm import relax

from tvmquant.ops import waist
from tvmquant.passes.hoist import hoist_elementwise

RNG = np.random.default_rng(0)
op = relax.op
X = RNG.standard_normal((2, 6, 5)).astype(np.float32)
WEIGHT = const(RNG.standard_normal((5, 8)).astype(np.float32))
VALUE = const(RNG.standard_normal(8).astype(np.float32))


def column(*shape):
    return const(RNG.standard_normal(shape).astype(np.float32))


def check(body, first):
    """``body(emit, linear)``; ``first`` are the operators that directly follow the matmul."""
    mod = build_module([X], lambda emit, x: body(emit, emit(op.matmul(x, WEIGHT))))
    out = hoist_elementwise(mod)
    assert operators(out)[1 : 1 + len(first)] == first
    assert_same_floats(mod, out, [X])


MOVES = {
    "reshape": (lambda emit, y: op.reshape(y, [2, 6, 2, 4]), (1, 1, 2, 4)),
    "transpose": (lambda emit, y: op.permute_dims(y, [0, 2, 1]), (1, 8, 1)),
    "unsqueeze": (lambda emit, y: op.expand_dims(y, 1), (8,)),
    "heads": (
        lambda emit, y: op.permute_dims(emit(op.reshape(y, [2, 6, 2, 4])), [0, 2, 1, 3]),
        (1, 2, 1, 4),
    ),
    "crop": (lambda emit, y: op.strided_slice(y, [1, 2], [1, 1], [6, 8]), (1, 1, 7)),
}


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("function", [op.add, op.multiply])
def test_channel_constants(name, function):
    move, shape = MOVES[name]
    check(lambda emit, y: function(emit(move(emit, y)), column(*shape)), [name_of(function)])


@pytest.mark.parametrize("name", MOVES)
def test_scalars_chains_and_diamonds(name):
    def body(emit, y):
        z = emit(op.add(emit(MOVES[name][0](emit, y)), const(np.float32(3))))
        return op.multiply(z, emit(op.sigmoid(emit(op.clip(z, 0, 6)))))

    check(body, ["add", "clip", "sigmoid", "multiply"])


def name_of(function):
    return function.__name__


def test_slopes_follow_their_channel():
    check(lambda emit, y: op.nn.prelu(emit(op.permute_dims(y, [0, 2, 1])), VALUE, 1), ["nn.prelu"])


def test_two_tensors_moved_alike():
    def body(emit, y):
        z = emit(op.matmul(emit(op.nn.relu(y)), column(8, 8)))
        a, b = (emit(op.permute_dims(t, [0, 2, 1])) for t in (y, z))
        return op.subtract(a, b)

    check(body, ["nn.relu", "matmul", "subtract"])


def test_two_tensors_moved_otherwise_stay():
    def body(emit, y):
        a = emit(op.reshape(y, [2, 48]))
        b = emit(op.reshape(emit(op.permute_dims(y, [0, 2, 1])), [2, 48]))
        return op.add(a, b)

    check(body, ["reshape", "permute_dims", "reshape", "add"])


def test_constants_of_another_axis_stay():
    check(
        lambda emit, y: op.add(emit(op.permute_dims(y, [0, 2, 1])), column(6)),
        ["permute_dims", "add"],
    )
    full = column(2, 48)
    check(lambda emit, y: op.add(emit(op.reshape(y, [2, 48])), full), ["reshape", "add"])


def test_parts_of_a_tensor_are_not_computed_whole():
    def body(emit, y):
        halves = [emit(op.strided_slice(y, [2], [i], [i + 4])) for i in (0, 4)]
        return op.add(emit(op.nn.relu(halves[0])), emit(op.tanh(halves[1])))

    check(body, ["strided_slice", "strided_slice", "nn.relu", "tanh", "add"])


def test_inputs_are_moved_first():
    mod = build_module([X], lambda emit, x: op.nn.relu(emit(op.permute_dims(x, [0, 2, 1]))))
    assert operators(hoist_elementwise(mod)) == ["permute_dims", "nn.relu"]


def test_channels_are_known_behind_quantize_nodes():
    scale, zero = const(np.float32(0.05)), const(np.uint8(128))

    def body(emit, y):
        attrs = {"bits": 8, "qmin": 0, "qmax": 255, "dtype": "uint8"}
        q = emit(waist.quantize(y, scale, zero, **attrs))
        real = emit(waist.dequantize(q, scale, zero, bits=8))
        return op.multiply(emit(op.permute_dims(real, [0, 2, 1])), column(8, 1))

    check(body, ["tvmquant.quantize", "tvmquant.dequantize", "multiply", "permute_dims"])


def test_quantize_and_dequantize():
    scale, zero = const(np.float32(0.1)), const(np.uint8(128))

    def body(emit, y):
        moved = emit(op.reshape(y, [2, 48]))
        attrs = {"bits": 8, "qmin": 0, "qmax": 255, "dtype": "uint8"}
        q = emit(waist.quantize(moved, scale, zero, **attrs))
        return waist.dequantize(q, scale, zero, bits=8)

    check(body, ["tvmquant.quantize", "tvmquant.dequantize", "reshape"])
