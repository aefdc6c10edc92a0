"""What integers mean, and value-moving operators on them."""

from __future__ import annotations

import numpy as np
import pytest
from networks import interpret, operators
from run_relax import build_module, const
from tvm import relax

from tvmquant.graph import Graph
from tvmquant.ops import waist
from tvmquant.passes.quantized import Quantized, exact_flavour
from tvmquant.passes.realize import realize
from tvmquant.recipe import Recipe

op = relax.op
RNG = np.random.default_rng(0)
MAP = RNG.integers(0, 256, (1, 4, 5, 6)).astype(np.uint8)
SCALE, ZERO = const(np.float32(0.1)), const(np.uint8(100))


def test_clamping_to_a_range():
    tensor = Quantized(None, 0.1, 100)
    assert tensor.clamped(0, np.inf).qmin == 100
    six = tensor.clamped(0, 6)
    assert (six.qmin, six.qmax) == (100, 160)
    assert tensor.clamped(-1e9, 1e9) == tensor
    assert tensor.clamped(0, np.inf).clamped(-5, 3).qmin == 100
    # Bounds outside of the range leave one integer, never an empty range.
    above = tensor.clamped(1000, 2000)
    assert above.qmin == above.qmax == 255
    below = tensor.clamped(-2000, -1000)
    assert below.qmin == below.qmax == 0


def test_same_params_needs_the_range_as_well():
    tensor = Quantized(None, 0.1, 100)
    assert tensor.clamped(0, np.inf).same_params(tensor)
    assert not tensor.same_params(tensor.clamped(0, np.inf))
    assert not tensor.same_params(Quantized(None, 0.2, 100))


@pytest.mark.parametrize(
    ("multiplier", "expected"),
    [([0.5, 2**-20, 4], "power_of_two"), ([0.5, 0.3], "fixed_point"), ([0.0], "power_of_two")],
)
def test_shifts_only_for_powers_of_two(multiplier, expected):
    assert exact_flavour(np.array(multiplier), "power_of_two") == expected
    assert exact_flavour(np.array(multiplier), "float") == "float"


def moved(body, *maps):
    """Operators and results of ``body`` on dequantized maps, quantized again."""

    def whole(emit, *qs):
        xs = [emit(waist.dequantize(q, SCALE, ZERO, bits=8)) for q in qs]
        attrs = {"bits": 8, "qmin": 0, "qmax": 255, "dtype": "uint8"}
        return waist.quantize(emit(body(emit, *xs)), SCALE, ZERO, **attrs)

    mod = build_module(maps, whole)
    out = realize(mod, Recipe())
    np.testing.assert_array_equal(interpret(out, maps)[0], interpret(mod, maps)[0])
    return operators(out), interpret(out, maps)[0]


MOVES = {
    "reshape": lambda emit, x: op.reshape(x, [4, 30]),
    "permute_dims": lambda emit, x: op.permute_dims(x, [0, 3, 1, 2]),
    "expand_dims": lambda emit, x: op.expand_dims(x, 1),
    "squeeze": lambda emit, x: op.squeeze(x, [0]),
    "strided_slice": lambda emit, x: op.strided_slice(x, [1], [3], [0], [-1]),
    "concat": lambda emit, x: op.concat([x, x], 2),
    "broadcast_to": lambda emit, x: op.broadcast_to(x, [3, 4, 5, 6]),
    "flip": lambda emit, x: op.flip(x, 1),
    "tile": lambda emit, x: op.tile(x, [1, 2, 1, 1]),
    "take": lambda emit, x: op.take(x, const(np.array([3, 1])), 3),
    "max": lambda emit, x: op.max(x, [1, 2], True),
    "min": lambda emit, x: op.min(x, [3]),
    "nn.pad": lambda emit, x: op.nn.pad(x, [0, 0, 1, 2, 0, 1, 0, 0]),
}


@pytest.mark.parametrize("name", MOVES)
def test_integers_are_moved_as_they_are(name):
    assert moved(MOVES[name], MAP)[0] == [name]


def test_padding_inserts_the_zero_point():
    _, got = moved(MOVES["nn.pad"], MAP)
    assert np.all(got[:, 0] == 100)
    assert np.all(got[:, :, -1] == 100)


def test_max_pooling_and_resizing():
    names, _ = moved(lambda emit, x: op.nn.max_pool2d(x, [2, 3], [1, 2], layout="NHWC"), MAP)
    assert names == ["tvmquant.max_pool2d"]
    resize = op.image.resize2d
    attrs = {"layout": "NHWC", "method": "nearest_neighbor"}
    names, _ = moved(lambda emit, x: resize(x, (8, 10), **attrs), MAP)
    assert names == ["image.resize2d"]


def test_splits():
    def body(emit, x):
        parts = emit(op.split(x, 2, 1))
        second, first = (emit(relax.TupleGetItem(parts, i)) for i in (1, 0))
        return op.concat([second, first], 1)

    assert moved(body, MAP)[0] == ["split", "concat"]


@pytest.mark.parametrize(
    "body",
    [
        lambda emit, x: op.nn.pad(x, [0, 0, 1, 1, 0, 0, 0, 0], "constant", 2.0),
        lambda emit, x: op.image.resize2d(x, (8, 10), layout="NHWC", method="linear"),
        lambda emit, x: op.image.resize2d(x, (8, 10), layout="NHWC", method="cubic"),
    ],
)
def test_what_makes_new_values_stays_float(body):
    names, _ = moved(body, MAP)
    assert names[0] == "tvmquant.dequantize"
    assert names[-1] == "tvmquant.quantize"


def test_concatenation_of_different_scales():
    """Each part is brought to the scale of the result by a table."""
    other = RNG.integers(0, 256, (1, 2, 5, 6)).astype(np.uint8)

    def body(emit, a, b):
        x = emit(waist.dequantize(a, SCALE, ZERO, bits=8))
        y = emit(waist.dequantize(b, const(np.float32(0.03)), const(np.uint8(7)), bits=8))
        attrs = {"bits": 8, "qmin": 0, "qmax": 255, "dtype": "uint8"}
        return waist.quantize(emit(op.concat([x, y], 1)), SCALE, ZERO, **attrs)

    mod = build_module([MAP, other], body)
    out = realize(mod, Recipe())
    assert operators(out) == ["tvmquant.lut", "concat"]
    arrays = [MAP, other]
    np.testing.assert_array_equal(interpret(out, arrays)[0], interpret(mod, arrays)[0])


def test_signed_storage_is_moved_up_by_128():
    q = RNG.integers(-128, 128, (2, 6)).astype(np.int8)
    zero = const(np.int8(-5))

    def body(emit, q):
        x = emit(waist.dequantize(q, SCALE, zero, bits=8))
        attrs = {"bits": 8, "qmin": -128, "qmax": 127, "dtype": "int8"}
        return waist.quantize(emit(op.permute_dims(emit(op.abs(x)))), SCALE, zero, **attrs)

    mod = build_module([q], body)
    out = realize(mod, Recipe())
    assert operators(out).count("tvmquant.flip_sign") == 2
    assert "tvmquant.lut" in operators(out)
    np.testing.assert_array_equal(interpret(out, [q])[0], interpret(mod, [q])[0])


def test_what_is_not_8_bit_per_tensor_is_not_taken():
    def body(emit, q):
        scale = const(np.array([0.1, 0.2, 0.1, 0.2], np.float32))
        zero = const(np.zeros(4, np.uint8))
        return op.reshape(emit(waist.dequantize(q, scale, zero, bits=8, axis=1)), [4, 30])

    out = realize(build_module([MAP], body), Recipe())
    assert operators(out) == ["tvmquant.dequantize", "reshape"]
    wide = MAP.astype(np.int16)
    zero = const(np.int16(0))
    mod = build_module([wide], lambda emit, q: waist.dequantize(q, SCALE, zero, bits=16))
    assert operators(realize(mod, Recipe())) == ["tvmquant.dequantize"]
    assert Graph(mod).params[0].name == "x0"
