"""Multiplications and additions by constants disappear into the layer before them."""

from __future__ import annotations

import numpy as np
import pytest
from networks import assert_same_floats, operators
from run_relax import build_module, const
from tvm import relax

from tvmquant.graph import Graph
from tvmquant.passes.fold_affine import fold_affine, is_linear, per_channel

RNG = np.random.default_rng(0)
op = relax.op


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


IMAGE, ROWS = floats(1, 4, 5, 3), floats(2, 7, 3)
KERNEL, MATRIX = const(floats(6, 3, 3, 3)), const(floats(3, 6))
SCALE, SHIFT, NUMBER = const(floats(1, 1, 1, 6)), const(floats(6)), const(np.float32(1.7))


def conv(x):
    layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
    return op.nn.conv2d(x, KERNEL, padding=[1, 1, 1, 1], **layouts)


def matmul(x):
    return op.matmul(x, MATRIX)


def check(layer, body, expected):
    x = IMAGE if layer is conv else ROWS
    mod = build_module([x], lambda emit, x: body(emit, emit(layer(x))))
    out = fold_affine(mod)
    assert operators(out)[1:] == expected
    assert_same_floats(mod, out, [x])


@pytest.mark.parametrize("layer", [conv, matmul])
@pytest.mark.parametrize("scale", [SHIFT, NUMBER])
def test_scales_fold_into_weights_and_biases(layer, scale):
    check(layer, lambda emit, y: op.multiply(y, scale), [])
    check(layer, lambda emit, y: op.multiply(emit(op.add(y, SHIFT)), scale), ["add"])
    check(layer, lambda emit, y: op.add(emit(op.multiply(y, scale)), NUMBER), ["add"])

    def two_norms(emit, y):
        for _ in range(2):
            y = emit(op.add(emit(op.multiply(y, scale)), SHIFT))
        return op.nn.relu(y)

    check(layer, two_norms, ["add", "nn.relu"])


def test_additions_merge():
    check(matmul, lambda emit, y: op.add(emit(op.add(y, SHIFT)), NUMBER), ["add"])


def test_a_layer_with_another_reader_is_not_changed():
    def body(emit, y):
        return op.add(emit(op.multiply(y, SHIFT)), emit(op.nn.relu(y)))

    check(matmul, body, ["multiply", "nn.relu", "add"])

    def biased(emit, y):
        z = emit(op.add(y, SHIFT))
        return relax.Tuple([emit(op.multiply(z, NUMBER)), z])

    check(matmul, biased, ["add", "multiply"])


def test_a_convolution_used_twice_keeps_its_weights():
    def body(emit, x):
        y = emit(conv(x))
        return op.add(emit(op.multiply(y, SCALE)), emit(op.multiply(y, NUMBER)))

    mod = build_module([IMAGE], body)
    out = fold_affine(mod)
    assert operators(out) == ["nn.conv2d", "multiply", "multiply", "add"]
    assert_same_floats(mod, out, [IMAGE])


def test_what_is_not_per_channel_stays():
    check(matmul, lambda emit, y: op.multiply(y, const(floats(7, 1))), ["multiply"])
    check(matmul, lambda emit, y: op.multiply(y, const(floats(3, 1, 1, 1))), ["multiply"])


def test_the_layer_keeps_its_name():
    mod = build_module([ROWS], lambda emit, x: op.multiply(emit(matmul(x), "head"), NUMBER))
    (var, value), *rest = Graph(fold_affine(mod)).bindings
    assert var.name == "head"
    assert is_linear(value)
    assert not rest


def test_per_channel():
    assert per_channel(const(floats(1, 1, 6)), [2, 7, 6]).shape == (6,)
    assert per_channel(NUMBER, [2, 7, 6]).shape == (1,)
    assert per_channel(const(floats(7, 1)), [2, 7, 6]) is None
    assert per_channel(const(np.ones(6, np.int32)), [2, 7, 6]) is None
