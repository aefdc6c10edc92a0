"""Chains of moves become one move, or none."""

from __future__ import annotations

import numpy as np
import pytest
from networks import assert_same_floats, operators
from run_relax import build_module
from tvm import relax

from tvmquant.passes.moves import merge_moves

op = relax.op
X = np.random.default_rng(0).standard_normal((2, 3, 1, 5)).astype(np.float32)
CASES = {
    "reshapes": (
        lambda emit, x: op.squeeze(emit(op.reshape(emit(op.expand_dims(x, 0)), [6, 1, 5])), [1]),
        ["reshape"],
    ),
    "there and back": (
        lambda emit, x: op.expand_dims(emit(op.squeeze(x, [2])), 2),
        [],
    ),
    "permutations": (
        lambda emit, x: op.permute_dims(emit(op.permute_dims(x, [0, 3, 2, 1])), [1, 0, 2, 3]),
        ["permute_dims"],
    ),
    "permutation and its inverse": (
        lambda emit, x: op.permute_dims(emit(op.permute_dims(x, [0, 2, 3, 1])), [0, 3, 1, 2]),
        [],
    ),
    "permutation of a side of 1": (lambda emit, x: op.permute_dims(x, [0, 2, 1, 3]), ["reshape"]),
    "reversed": (lambda emit, x: op.permute_dims(x), ["permute_dims"]),
    "whole slice": (lambda emit, x: op.strided_slice(x, [1], [0], [3]), []),
    "reversing slice": (
        lambda emit, x: op.strided_slice(x, [1], [-1], [-9], [-1]),
        ["strided_slice"],
    ),
    "shuffle between layouts": (
        lambda emit, x: op.permute_dims(
            emit(op.reshape(emit(op.permute_dims(x, [0, 2, 3, 1])), [2, 1, 15])), [2, 0, 1]
        ),
        ["reshape", "permute_dims", "reshape"],
    ),
    "conv1d after conv1d": (
        lambda emit, x: op.permute_dims(
            emit(op.expand_dims(emit(op.squeeze(emit(op.permute_dims(x, [0, 3, 2, 1])), [2])), 2)),
            [0, 3, 2, 1],
        ),
        [],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_merged(name):
    body, expected = CASES[name]
    mod = build_module([X], lambda emit, x: op.nn.relu(emit(body(emit, emit(op.negative(x))))))
    out = merge_moves(mod)
    assert operators(out) == ["negative", *expected, "nn.relu"]
    assert_same_floats(mod, out, [X])


def test_other_readers_keep_their_tensor():
    def body(emit, x):
        flat = emit(op.reshape(x, [6, 5]))
        back = emit(op.reshape(flat, [2, 3, 1, 5]))
        return relax.Tuple([emit(op.nn.relu(flat)), emit(op.add(back, x))])

    mod = build_module([X], body)
    out = merge_moves(mod)
    assert operators(out).count("reshape") == 1
    assert_same_floats(mod, out, [X])
