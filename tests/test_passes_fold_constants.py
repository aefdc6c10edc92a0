"""What depends on constants only is computed, the integers of layers excepted."""

from __future__ import annotations

import numpy as np
from networks import assert_same_floats, operators
from run_relax import build_module, const
from tvm import relax

from tvmquant.ops import waist
from tvmquant.passes.fold_constants import fold_constants

op = relax.op
X = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
SCALE, ZERO = const(np.float32(0.1)), const(np.int8(3))


def integers(*shape):
    return const(np.random.default_rng(1).integers(-9, 9, shape).astype(np.int8))


def check(body, expected):
    mod = build_module([X], body)
    out = fold_constants(mod)
    assert operators(out) == expected
    assert_same_floats(mod, out, [X], rtol=1e-6)


def test_arithmetic_shapes_and_parts():
    def body(emit, x):
        c = emit(op.add(const(X), const(np.float32(1))))
        parts = emit(op.split(emit(op.concat([c, const(X)], 1)), 2, 1))
        second = emit(relax.TupleGetItem(parts, 1))
        shape = emit(op.reshape(second, [6, 2]))
        return op.multiply(x, emit(op.permute_dims(shape)))

    check(body, ["multiply"])


def test_weights_stay_integers():
    def body(emit, x):
        w = emit(waist.dequantize(integers(6, 4), SCALE, ZERO, bits=8))
        return op.matmul(x, w)

    check(body, ["tvmquant.dequantize", "matmul"])


def test_biases_become_float():
    def body(emit, x):
        b = emit(waist.dequantize(integers(6), SCALE, ZERO, bits=8))
        return op.add(x, emit(op.reshape(b, [1, 6])))

    check(body, ["add"])


def test_the_numbers_of_a_batch_norm_become_float():
    def body(emit, x):
        image = emit(op.reshape(x, [1, 6, 2, 1]))
        params = [emit(waist.dequantize(integers(6), SCALE, ZERO, bits=8)) for _ in range(4)]
        params[3] = const(np.ones(6, np.float32))
        y = emit(op.nn.batch_norm(image, *params, axis=1, training=False))
        return relax.TupleGetItem(y, 0)

    mod = build_module([X], body)
    assert operators(fold_constants(mod)) == ["reshape", "nn.batch_norm"]


def test_integers_that_a_layer_reads_as_well_stay():
    def body(emit, x):
        w = emit(waist.dequantize(integers(6, 6), SCALE, ZERO, bits=8))
        return op.add(emit(op.matmul(x, w)), emit(op.sum(emit(op.multiply(w, w)), [0])))

    check(body, ["tvmquant.dequantize", "matmul", "multiply", "sum", "add"])


def test_operators_without_an_evaluator_are_left():
    check(lambda emit, x: op.add(x, emit(op.zeros([2, 6], "float32"))), ["zeros", "add"])
