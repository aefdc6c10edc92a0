"""tvmquant.frontend.move_converters against ONNX Runtime."""

import numpy as np
import pytest
from frontend_tools import assert_same, make_model, node

from tvmquant.errors import ModelError, UnsupportedOperatorError
from tvmquant.frontend import load_model

RNG = np.random.default_rng(0)


def rand(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def check(nodes, feeds, constants=None, opset=18, **options):
    assert_same(make_model(nodes, feeds, constants, opset=opset, **options), feeds)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_pad_from_the_tensor_itself(mode):
    pads = {"p": np.array([1, 2, 2, 0], np.int64), "v": np.float32(0), "a": np.array([1, 3])}
    check([node("Pad", "x p v a", mode=mode)], {"x": rand(2, 3, 4, 5)}, pads, opset=19)


def test_pad_wider_than_the_tensor_is_refused():
    for mode, width in (("reflect", 3), ("wrap", 4)):
        pads = {"p": np.array([0, width, 0, 0], np.int64)}
        model = make_model([node("Pad", "x p", mode=mode)], {"x": rand(2, 3)}, pads, opset=19)
        with pytest.raises(UnsupportedOperatorError, match=rf"Pad, {mode}.*of length 3 by {width}"):
            load_model(model)


@pytest.mark.parametrize(
    "opset,attributes,sizes",
    [
        (18, {"num_outputs": 3}, None),  # 4, 4, 2
        (13, {}, [1, 7, 2]),
        (11, {"split": [3, 3, 4]}, None),
    ],
)
def test_split_into_uneven_parts(opset, attributes, sizes):
    names = "x" if sizes is None else "x s"
    constants = {} if sizes is None else {"s": np.array(sizes, np.int64)}
    parts = ("a", "b", "c")
    cut = node("Split", names, " ".join(parts), axis=1, **attributes)
    check([cut], {"x": rand(2, 10, 3)}, constants, opset=opset, outputs=parts)


def test_split_into_one_part():
    check([node("Split", "x", "a", axis=0, num_outputs=1), node("Relu", "a")], {"x": rand(4)})


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis):
    values = np.array([-1, 2], np.float32)
    for kind in (np.int64, np.float32):
        ids = np.array([[0, 4, -1], [2, 9, 1]], kind)
        constants = {"d": np.array([5], kind), "v": values}
        check([node("OneHot", "x d v", axis=axis)], {"x": ids}, constants)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode):
    x = rand(1, 2, 3, 4)
    scales = {"s": np.array([1, 1, 2, 3], np.float32)}
    check([node("Upsample", "x s", mode=mode)], {"x": x}, scales, opset=9)
    check([node("Upsample", "x", mode=mode, scales=[1.0, 1, 2, 2])], {"x": x}, opset=7)


@pytest.mark.parametrize(
    "kind,names,fed",
    [
        ("Pad", "x p", {"p": np.zeros(4, np.int64)}),
        ("Split", "x p", {"p": np.array([1, 1], np.int64)}),
        ("OneHot", "i p v", {"i": np.zeros(2, np.int64), "p": np.int64(3), "v": rand(2)}),
        ("Reshape", "x p", {"p": np.array([6], np.int64)}),
    ],
)
def test_shapes_that_depend_on_the_data_are_refused(kind, names, fed):
    feeds = {"x": rand(2, 3), **fed}
    outputs = "y z" if kind == "Split" else "y"
    model = make_model([node(kind, names, outputs, name="layer")], feeds)
    with pytest.raises(ModelError, match=rf"node 'layer' \({kind}\)"):
        load_model(model)
