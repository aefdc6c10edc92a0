"""A transposition behind an enlarging linear resize is done before it."""

from __future__ import annotations

import numpy as np
import pytest
from networks import assert_same_floats, operators
from run_relax import build_module
from tvm import relax

from tvmquant.passes.early_transposes import early_transposes

op = relax.op
X = np.random.default_rng(0).standard_normal((1, 5, 4, 3)).astype(np.float32)


def resize(x, size=(9, 11), method="linear", coordinates="half_pixel"):
    return op.image.resize2d(
        x,
        relax.ShapeExpr(list(size)),
        layout="NHWC",
        method=method,
        coordinate_transformation_mode=coordinates,
    )


def to_first(emit, x):
    return op.permute_dims(emit(x), [0, 3, 1, 2])


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric"])
def test_it_moves(coordinates):
    def body(emit, x):
        return to_first(emit, resize(emit(op.abs(x)), coordinates=coordinates))

    mod = build_module([X], body)
    out = early_transposes(mod)
    assert operators(out) == ["abs", "permute_dims", "image.resize2d"]
    assert_same_floats(mod, out, [X])


def test_it_moves_through_functions_of_one_tensor():
    mod = build_module(
        [X], lambda emit, x: to_first(emit, op.tanh(emit(op.sigmoid(emit(resize(x))))))
    )
    out = early_transposes(mod)
    assert operators(out) == ["permute_dims", "image.resize2d", "sigmoid", "tanh"]
    assert_same_floats(mod, out, [X])


def shared(emit, x):
    y = emit(resize(x))
    return emit(relax.Tuple([emit(op.permute_dims(y, [0, 3, 1, 2])), y]))


@pytest.mark.parametrize(
    "body",
    [
        lambda emit, x: to_first(emit, resize(x, (2, 3))),
        lambda emit, x: to_first(emit, resize(x, method="cubic")),
        lambda emit, x: op.permute_dims(emit(resize(x)), [0, 3, 2, 1]),
        shared,
    ],
    ids=["smaller", "cubic", "another order", "read twice"],
)
def test_the_rest_stays(body):
    mod = build_module([X], body)
    assert operators(early_transposes(mod)) == operators(mod)
