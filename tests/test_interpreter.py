"""Every NumPy evaluator against the same operator compiled by TVM."""

from __future__ import annotations

import numpy as np
import pytest
from networks import interpret
from run_relax import build_module, const
from tvm import relax

from tvmquant.graph import Graph
from tvmquant.interpreter import Interpreter
from tvmquant.interpreter.fallback import run_with_tvm
from tvmquant.interpreter.float_ops import BINARY, FLOAT_OPS, UNARY

RNG = np.random.default_rng(0)
op, nn = relax.op, relax.op.nn


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def through_tvm(mod, arrays):
    """The single operator of ``mod`` compiled."""
    (_, value), *rest = Graph(mod).bindings
    assert not rest
    env = dict(zip(Graph(mod).params, arrays))

    def argument(expr):
        if isinstance(expr, relax.Tuple):
            return tuple(map(argument, expr.fields))
        return env[expr] if isinstance(expr, relax.Var) else expr

    args = [argument(arg) for arg in value.args]
    return run_with_tvm(mod, value, args)


def check(body, *arrays, atol=2e-6):
    mod = build_module(arrays, body)
    (_, value) = Graph(mod).bindings[0]
    assert str(value.op.name) in FLOAT_OPS
    (got,), want = interpret(mod, arrays), through_tvm(mod, arrays)
    for a, b in zip(got, want) if isinstance(want, tuple) else [(got, want)]:
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=atol)


# Without a schedule TVM makes an invalid module of silu.
@pytest.mark.parametrize("name", sorted(set(UNARY) - {"nn.silu"}))
def test_unary(name):
    function = op
    for part in name.split("."):
        function = getattr(function, part)
    x = np.linspace(-0.99, 0.99, 40, dtype=np.float32).reshape(4, 10)
    if name in ("log", "sqrt", "rsqrt", "acosh"):
        x = np.abs(x) + (1 if name == "acosh" else 0.1)
    check(lambda emit, x: function(x), x > 0 if name == "logical_not" else x * 1)


def test_silu():
    x = floats(40)
    np.testing.assert_allclose(UNARY["nn.silu"](x), x / (1 + np.exp(-x)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", sorted(BINARY))
def test_binary(name):
    a, b = np.abs(floats(3, 1, 4)), np.abs(floats(2, 4))
    if name.startswith("logical"):
        a, b = a > 0.5, b > 0.5
    check(lambda emit, a, b: getattr(op, name)(a, b), a, b)


X, IMAGE, LAST = floats(2, 3, 4), floats(2, 4, 6, 5), floats(2, 6, 5, 4)
NHWC = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
CASES = {
    "divide": (lambda emit, x: op.divide(const(np.float32(2)), x), X),
    "clip": (lambda emit, x: op.clip(x, -0.5, 0.25), X),
    "leakyrelu": (lambda emit, x: nn.leakyrelu(x, 0.2), X),
    "prelu": (lambda emit, x: nn.prelu(x, const(floats(3)), 1), X),
    "softmax": (lambda emit, x: nn.softmax(x, 1), X),
    "layer_norm": (
        lambda emit, x: nn.layer_norm(x, const(floats(3, 4)), const(floats(3, 4)), [1, 2], 0.01),
        X,
    ),
    "mean": (lambda emit, x: op.mean(x, [0, -1], True), X),
    "sum": (lambda emit, x: op.sum(x), X),
    "max": (lambda emit, x: op.max(x, [1]), X),
    "min": (lambda emit, x: op.min(x, [2], True), X),
    "matmul": (lambda emit, x: op.matmul(x, const(floats(4, 5))), X),
    "reshape": (lambda emit, x: op.reshape(x, [4, -1]), X),
    "broadcast_to": (lambda emit, x: op.broadcast_to(x, [5, 2, 3, 4]), X),
    "permute_dims": (lambda emit, x: op.permute_dims(x, [2, 0, 1]), X),
    "reversed": (lambda emit, x: op.permute_dims(x), X),
    "expand_dims": (lambda emit, x: op.expand_dims(x, [0, 2]), X),
    "squeeze": (lambda emit, x: op.squeeze(x, [1]), floats(2, 1, 3)),
    "concat": (lambda emit, x: op.concat([x, x], 2), X),
    "split": (lambda emit, x: op.split(x, [1, 3], 2), X),
    "split evenly": (lambda emit, x: op.split(x, 2, 0), X),
    "strided_slice": (lambda emit, x: op.strided_slice(x, [0, 2], [0, 1], [1, 99], [1, 2]), X),
    "backwards": (lambda emit, x: op.strided_slice(x, [2], [-1], [-99], [-1]), X),
    "take": (lambda emit, x: op.take(x, const(np.array([[1, 0], [2, 5]])), 1, "clip"), X),
    "pad": (lambda emit, x: nn.pad(x, [0, 1, 2, 0, 0, 0], "constant", 1.5), X),
    "mirrored pad": (lambda emit, x: nn.pad(x, [0, 1, 2, 0, 0, 2], "reflect"), X),
    "repeated pad": (lambda emit, x: nn.pad(x, [0, 1, 2, 0, 0, 2], "replicate"), X),
    "wrapped pad": (lambda emit, x: nn.pad(x, [0, 1, 2, 0, 0, 2], "circular"), X),
    "astype": (lambda emit, x: op.astype(x, "int32"), X * 9),
    "where": (lambda emit, x: op.where(const(X > 0), x, const(np.float32(7))), X),
    "conv2d": (
        lambda emit, x: nn.conv2d(x, const(floats(6, 2, 3, 2)), [2, 1], [1, 0, 2, 1], [1, 2], 2),
        IMAGE,
    ),
    "conv2d nhwc": (
        lambda emit, x: nn.conv2d(x, const(floats(6, 3, 3, 4)), [1, 2], [1, 1, 0, 1], **NHWC),
        LAST,
    ),
    "depthwise": (
        lambda emit, x: nn.conv2d(x, const(floats(4, 3, 3, 1)), groups=4, **NHWC),
        LAST,
    ),
    "max_pool2d": (lambda emit, x: nn.max_pool2d(x, [3, 2], [2, 2], [1, 0, 1, 1]), IMAGE),
    "max_pool2d nhwc": (
        lambda emit, x: nn.max_pool2d(x, [2, 2], [2, 2], ceil_mode=True, layout="NHWC"),
        LAST,
    ),
    "avg_pool2d": (lambda emit, x: nn.avg_pool2d(x, [3, 3], [2, 1], [1, 1, 1, 1]), IMAGE),
    "avg_pool2d padded": (
        lambda emit, x: nn.avg_pool2d(x, [3, 2], [2, 2], [1, 0, 1, 1], count_include_pad=True),
        IMAGE,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operator(name):
    check(*CASES[name], atol=1e-5)


def test_max_pool_of_integers():
    q = RNG.integers(-128, 0, (1, 2, 4, 4)).astype(np.int8)
    mod = build_module([q], lambda emit, x: nn.max_pool2d(x, [3, 3], [1, 1], [1, 1, 1, 1]))
    np.testing.assert_array_equal(interpret(mod, [q])[0], through_tvm(mod, [q]))


def test_operators_without_an_evaluator_run_in_tvm():
    mod = build_module([IMAGE], lambda emit, x: nn.adaptive_avg_pool2d(x, [3, 5]))
    want = IMAGE.reshape(2, 4, 3, 2, 5).mean(3)
    np.testing.assert_allclose(interpret(mod, [IMAGE])[0], want, rtol=1e-5, atol=1e-6)


def test_taps_and_wrong_inputs():
    mod = build_module([X], lambda emit, x: op.abs(emit(op.negative(x), "n")))
    seen = []
    Interpreter(mod).run([X], lambda var, value, result: seen.append((var.name, result)))
    assert seen[0][0] == "n"
    np.testing.assert_array_equal(seen[0][1], -X)
    with pytest.raises(ValueError, match="expected 1 inputs, got 2"):
        Interpreter(mod).run([X, X])


def test_infinities_do_not_warn(recwarn):
    mod = build_module([X], lambda emit, x: op.log(emit(op.divide(x, const(np.float32(0))))))
    assert not np.all(np.isfinite(interpret(mod, [X])[0]))
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


@pytest.mark.parametrize(
    "size,channels,kernel,stride,dilation", [(70, 48, 3, 1, 1), (71, 40, 5, 2, 1), (20, 3, 3, 3, 2)]
)
def test_depthwise_convolutions_in_strips_of_rows(size, channels, kernel, stride, dilation):
    attrs = {"strides": [stride] * 2, "dilation": [dilation] * 2, "padding": [1, 2, 2, 0]}
    weight = const(floats(channels, kernel, kernel, 1))
    layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "groups": channels}
    x = floats(2, size, size, channels)
    check(lambda emit, x: nn.conv2d(x, weight, **attrs, **layouts), x, atol=2e-5)
