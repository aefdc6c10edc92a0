"""Operators in torch against their NumPy evaluators, on more samples than the graph says."""

import numpy as np
import pytest
from run_relax import build_module, const
from tvm import relax

torch = pytest.importorskip("torch")

from tvmquant.graph import Graph, is_const  # noqa: E402
from tvmquant.interpreter import Interpreter  # noqa: E402
from tvmquant.interpreter.torch_ops import (  # noqa: E402
    NotDifferentiableError,
    evaluate,
)

RNG = np.random.default_rng(0)
op, nn = relax.op, relax.op.nn
LAYOUT = {"data_layout": "NHWC", "kernel_layout": "OHWI"}


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def torch_result(mod, x):
    (_, call) = Graph(mod).bindings[0]

    def argument(expr):
        if isinstance(expr, relax.Tuple):
            return [argument(item) for item in expr.fields]
        if isinstance(expr, relax.Var):
            return torch.from_numpy(x)
        return torch.from_numpy(expr.value.numpy()) if is_const(expr) else expr

    return evaluate(call, [argument(arg) for arg in call.args])


CASES = {
    "conv": ((1, 9, 8, 4), lambda x: nn.conv2d(x, W, padding=[1, 1, 1, 1], **LAYOUT)),
    "strided": ((1, 9, 8, 4), lambda x: nn.conv2d(x, W, [2, 1], padding=[0, 1, 2, 0], **LAYOUT)),
    "depthwise": ((1, 9, 8, 4), lambda x: nn.conv2d(x, D, dilation=[2, 1], groups=4, **LAYOUT)),
    "max_pool": ((1, 8, 8, 4), lambda x: nn.max_pool2d(x, [3, 3], [2, 2], [1] * 4, layout="NHWC")),
    "avg_pool": ((1, 8, 8, 4), lambda x: nn.avg_pool2d(x, [2, 2], [2, 2], layout="NHWC")),
    "matmul": ((1, 5, 4), lambda x: op.matmul(x, M)),
    "add": ((1, 5, 4), lambda x: op.add(x, B)),
    "relu": ((1, 5, 4), nn.relu),
    "silu": ((1, 5, 4), nn.silu),
    "gelu": ((1, 5, 4), nn.gelu),
    "gelu_tanh": ((1, 5, 4), nn.gelu_tanh),
    "leaky": ((1, 5, 4), lambda x: nn.leakyrelu(x, 0.2)),
    "clip": ((1, 5, 4), lambda x: op.clip(x, -0.5, 0.7)),
    "mean": ((1, 5, 4), lambda x: op.mean(x, [1], True)),
    "sum": ((1, 5, 4), lambda x: op.sum(x, [-1])),
    "softmax": ((1, 5, 4), lambda x: nn.softmax(x, -1)),
    "layer_norm": ((1, 5, 4), lambda x: nn.layer_norm(x, B, B, -1)),
    "reshape": ((1, 5, 4), lambda x: op.reshape(x, (1, 2, 10))),
    "permute": ((1, 5, 4), lambda x: op.permute_dims(x, [0, 2, 1])),
    "concat": ((1, 5, 4), lambda x: op.concat([x, x], 1)),
    "sigmoid": ((1, 5, 4), op.sigmoid),
}
W, D, M, B = (
    const(floats(6, 3, 3, 4)),
    const(floats(4, 3, 3, 1)),
    const(floats(4, 3)),
    const(floats(4)),
)


@pytest.mark.parametrize("name", CASES)
def test_operator(name):
    shape, body = CASES[name]
    x = floats(3, *shape[1:])
    mod = build_module([x[:1]], lambda emit, v: body(v))
    want = np.concatenate([Interpreter(mod).run([row[None]])[0] for row in x])
    got = torch_result(mod, x).numpy()
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=3e-6)


@pytest.mark.parametrize(
    "body,message",
    [
        (lambda x: op.permute_dims(x, [1, 0, 2]), "permutation of the first axis"),
        (lambda x: op.reshape(x, (5, 4)), "reshape of the first axis"),
        (lambda x: op.mean(x), "reduction over the first axis"),
        (lambda x: op.concat([x, x], 0), "concat along the first axis"),
        (lambda x: op.cumsum(x, 1), "relax.cumsum"),
    ],
)
def test_what_cannot_be_stacked(body, message):
    mod = build_module([floats(1, 5, 4)], lambda emit, v: body(v))
    with pytest.raises(NotDifferentiableError, match=message):
        torch_result(mod, floats(3, 5, 4))
