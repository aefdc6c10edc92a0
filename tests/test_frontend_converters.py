"""tvmquant.frontend.converters against ONNX Runtime."""

import numpy as np
import pytest
from frontend_tools import assert_same, bindings, make_model, node
from onnx import TensorProto, helper

from tvmquant.errors import UnsupportedOperatorError
from tvmquant.frontend import load_model

RNG = np.random.default_rng(0)


def rand(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def check(op, x, constants=None, opset=17, extra=None, **attributes):
    constants = constants or {}
    feeds = {"x": x, **(extra or {})}
    names = " ".join([*feeds, *constants])
    assert_same(make_model([node(op, names, **attributes)], feeds, constants, opset=opset), feeds)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "VALID"},
        {"dilations": [2, 2], "group": 2},
    ],
)
def test_conv(attributes):
    group = attributes.get("group", 1)
    constants = {"w": rand(6, 4 // group, 3, 3), "b": rand(6)}
    check("Conv", rand(2, 4, 9, 8), constants, **attributes)


def test_conv_1d_and_3d():
    check("Conv", rand(1, 3, 9), {"w": rand(4, 3, 3)}, pads=[1, 1])
    check("Conv", rand(1, 2, 4, 5, 5), {"w": rand(3, 2, 2, 2, 2), "b": rand(3)})


def test_conv_with_fed_weights():
    check("Conv", rand(1, 3, 5, 5), extra={"w": rand(4, 3, 3, 3), "b": rand(4)})


def test_conv_transpose():
    constants = {"w": rand(4, 3, 2, 2), "b": rand(3)}
    check("ConvTranspose", rand(1, 4, 5, 5), constants, strides=[2, 2])


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER"])
def test_conv_transpose_to_a_given_shape(auto_pad):
    constants = {"w": rand(4, 3, 3, 3)}
    for shape in ([9, 10], [11, 9], [12, 11]):
        check(
            "ConvTranspose",
            rand(1, 4, 5, 5),
            constants,
            strides=[2, 2],
            output_shape=shape,
            auto_pad=auto_pad,
        )


def test_conv_and_bias_are_called_like_the_node():
    conv = node("Conv", "x w b", name="stem.0/conv")
    model = make_model([conv], {"x": rand(1, 3, 5, 5)}, {"w": rand(2, 3, 3, 3), "b": rand(2)})
    named = [op for name, op in bindings(load_model(model).mod) if name == "stem.0/conv"]
    assert named == ["relax.nn.conv2d", "relax.add"]


@pytest.mark.parametrize(
    "attributes", [{}, {"transB": 1}, {"transA": 1, "alpha": 0.5}, {"transB": 1, "beta": 2.0}]
)
def test_gemm(attributes):
    a = rand(5, 3) if attributes.get("transA") else rand(3, 5)
    b = rand(4, 5) if attributes.get("transB") else rand(5, 4)
    check("Gemm", a, {"b": b, "c": rand(4)}, **attributes)
    check("Gemm", a, {"b": b}, **attributes)


def test_gemm_with_fed_matrices():
    check("Gemm", rand(3, 5), extra={"b": rand(4, 5), "c": rand(3, 4)}, transB=1, beta=0.5)


def test_batch_norm():
    constants = {"s": rand(3), "b": rand(3), "m": rand(3), "v": np.abs(rand(3)) + 0.5}
    check("BatchNormalization", rand(2, 3, 4, 4), constants, epsilon=1e-3)


def test_batch_norm_in_training_mode_is_refused():
    constants = {"s": rand(3), "b": rand(3), "m": rand(3), "v": np.abs(rand(3))}
    bn = node("BatchNormalization", "x s b m v", "y m2 v2", training_mode=1, name="bn")
    model = make_model([bn], {"x": rand(2, 3, 4, 4)}, constants)
    with pytest.raises(UnsupportedOperatorError, match=r"node 'bn'.*evaluation mode"):
        load_model(model)


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_norm(axis):
    shape = (5,) if axis == -1 else (4, 5)
    check("LayerNormalization", rand(2, 4, 5), {"g": rand(*shape), "b": rand(*shape)}, axis=axis)


def test_layer_norm_without_bias():
    check("LayerNormalization", rand(2, 5), {"g": rand(5)})


@pytest.mark.parametrize("low,high", [(0, 6), (0, None), (None, 0.5), (-0.5, None), (None, None)])
def test_clip(low, high):
    constants = {
        name: np.float32(bound) for name, bound in (("l", low), ("h", high)) if bound is not None
    }
    names = f"x {'l' if low is not None else '_'} {'h' if high is not None else '_'}"
    x = rand(3, 4)
    assert_same(make_model([node("Clip", names)], {"x": x}, constants), {"x": x})


def test_clip_becomes_one_operator():
    x = rand(3, 4)
    bounds = {"l": np.float32(0), "h": np.float32(6)}
    relu6 = make_model([node("Clip", "x l h", name="c")], {"x": x}, bounds)
    relu = make_model([node("Clip", "x l", name="c")], {"x": x}, {"l": np.float32(0)})
    assert ("c", "relax.clip") in bindings(load_model(relu6).mod)
    assert ("c", "relax.nn.relu") in bindings(load_model(relu).mod)


def test_clip_of_old_opset_and_fed_bounds():
    check("Clip", rand(3, 4), opset=6, min=-0.5, max=0.5)
    check("Clip", rand(3, 4), extra={"l": np.array(-1, "f4"), "h": np.array(1, "f4")})


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
def test_variadic(op):
    check(op, rand(2, 3, 4), {"b": rand(3, 1)}, extra={"a": rand(1, 4)})
    check(op, rand(2, 3))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(mode):
    pads = np.array([0, 0, 1, 2, 0, 0, 2, 1], np.int64)
    check("Pad", rand(1, 2, 4, 5), {"p": pads}, mode=mode)


def test_pad_with_value_axes_and_old_opset():
    constants = {"p": np.array([1, 2], np.int64), "v": np.float32(3), "a": np.array([-1])}
    check("Pad", rand(2, 3), constants, opset=18)
    check("Pad", rand(2, 3), opset=2, pads=[0, 1, 0, 2], value=1.5)
    check("Pad", rand(4, 5), {"p": np.array([0, -1, 1, 0], np.int64)})


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_softmax(opset, axis):
    check("Softmax", rand(2, 3, 4), opset=opset, axis=axis)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2]},
        {"pads": [1, 0, 1, 1], "strides": [2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [1, 2]},
        {"ceil_mode": 1, "strides": [2, 2]},
        {"pads": [1, 1, 1, 1], "ceil_mode": 1, "strides": [2, 2]},
    ],
)
def test_pool(op, attributes):
    check(op, rand(1, 2, 8, 9), kernel_shape=[3, 3], **attributes)


def test_average_pool_that_counts_padding():
    check("AveragePool", rand(1, 2, 8), kernel_shape=[3], pads=[1, 1], count_include_pad=1)


def test_max_pool_indices_are_refused():
    pool = node("MaxPool", "x", "y i", kernel_shape=[2, 2], name="pool")
    with pytest.raises(UnsupportedOperatorError, match=r"node 'pool'.*Indices"):
        load_model(make_model([pool], {"x": rand(1, 1, 4, 4)}))


@pytest.mark.parametrize("shape", [(3, 1, 1), (1,), (4,), (3, 4, 4)])
def test_prelu(shape):
    check("PRelu", rand(2, 3, 4, 4), {"s": rand(*shape)})


def test_gather_with_constant_and_fed_indices():
    check("Gather", rand(3, 5), {"i": np.array([[0, -1], [2, 1]])}, axis=1)
    ids = np.array([[0, 2, -1]], np.int64)
    table = rand(4, 6)
    model = make_model([node("Gather", "t i")], {"i": ids}, {"t": table})
    assert_same(model, {"i": ids})


def test_gather_out_of_range_reads_inside_the_table():
    # ONNX Runtime raises; compiled code must at least not read foreign memory.
    from frontend_tools import run_tvm

    ids, table = np.array([99], np.int64), rand(4, 2)
    model = make_model([node("Gather", "t i")], {"i": ids}, {"t": table})
    np.testing.assert_array_equal(run_tvm(model, {"i": ids})[0], table[[3]])


@pytest.mark.parametrize("opset", [10, 13])
def test_resize(opset):
    scales = np.array([1, 1, 2, 2], np.float32)
    constants = {"s": scales} if opset == 10 else {"r": np.zeros(0, np.float32), "s": scales}
    attributes = {} if opset == 10 else {"coordinate_transformation_mode": "asymmetric"}
    check("Resize", rand(1, 2, 3, 4), constants, opset=opset, mode="nearest", **attributes)


def test_resize_to_sizes_with_empty_scales():
    empty = np.zeros(0, np.float32)
    constants = {"r": empty, "s": empty, "z": np.array([1, 2, 6, 8], np.int64)}
    check("Resize", rand(1, 2, 3, 4), constants, opset=11, mode="linear")


@pytest.mark.parametrize("base", [np.float32, np.int64, np.int32])
@pytest.mark.parametrize("exponent", [np.float32, np.int64])
def test_power_of_two_types(base, exponent):
    x, y = np.array([1, 2, 3], base), np.array([2, 3, 2], exponent)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    for feeds, constants in (({"x": x, "y": y}, {}), ({"x": x}, {"y": y})):
        model = make_model(
            [node("Pow", "x y", "z")], feeds, constants, ("z",), output_types={"z": kind}
        )
        assert_same(model, feeds)


@pytest.mark.parametrize("positive,negative", [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_is_inf(positive, negative):
    x = np.array([1, np.inf, -np.inf, np.nan], np.float32)
    kind = TensorProto.BOOL
    layer = node("IsInf", "x", detect_positive=positive, detect_negative=negative)
    assert_same(make_model([layer], {"x": x}, output_types={"y": kind}), {"x": x})


def test_dropout_gives_its_mask_and_refuses_training():
    x = rand(2, 3)
    kinds = {"m": TensorProto.BOOL}
    model = make_model([node("Dropout", "x", "y m")], {"x": x}, {}, ("y", "m"), output_types=kinds)
    assert_same(model, {"x": x})
    training = {"r": np.float32(0.5), "t": np.array(True)}
    model = make_model([node("Dropout", "x r t", name="drop")], {"x": x}, training)
    with pytest.raises(UnsupportedOperatorError, match=r"node 'drop'.*training mode"):
        load_model(model)


def test_boxes_and_lists_are_refused_with_advice():
    boxes, scores = rand(1, 6, 4), rand(1, 2, 6)
    select = node("NonMaxSuppression", "b s", name="select")
    with pytest.raises(UnsupportedOperatorError, match=r"'select'.*end the model before that node"):
        load_model(make_model([select], {"b": boxes, "s": scores}))
    cut = [node("SplitToSequence", "x", "s", name="cut"), node("SequenceAt", "s i")]
    with pytest.raises(UnsupportedOperatorError, match=r"'cut'.*Lists of tensors"):
        load_model(make_model(cut, {"x": rand(2, 3)}, {"i": np.int64(0)}))


@pytest.mark.parametrize("to", [1, 6, 7])
def test_cast(to):
    x = np.array([[1.7, -2.2, 0.0]], np.float32)
    model = make_model([node("Cast", "x", to=to)], {"x": x}, output_types={"y": to})
    assert_same(model, {"x": x})
