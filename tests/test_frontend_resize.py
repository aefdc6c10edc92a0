"""tvmquant.frontend.resize against ONNX Runtime, evaluated by the interpreter."""

import numpy as np
import pytest
from frontend_tools import calls, make_model, node, run_onnxruntime

from tvmquant.errors import ModelError, UnsupportedOperatorError
from tvmquant.frontend import load_model
from tvmquant.interpreter import Interpreter

RNG = np.random.default_rng(0)
SHAPE = (1, 2, 7, 9)


def model_of(constants, opset=19, shape=SHAPE, **attributes):
    x = RNG.standard_normal(shape).astype(np.float32)
    names = "x " + " ".join(constants)
    given = {name: value for name, value in constants.items() if name != "_"}
    return make_model([node("Resize", names, **attributes)], {"x": x}, given, opset=opset), x


def check(constants, opset=19, shape=SHAPE, **attributes):
    model, x = model_of(constants, opset, shape, **attributes)
    (got,), (want,) = Interpreter(load_model(model).mod).run([x]), run_onnxruntime(model, {"x": x})
    assert got.shape == want.shape and got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    return load_model(model).mod


def scales(factor, rank=4):
    return {"_": None, "s": np.array([1, 1] + [factor] * (rank - 2), np.float32)}


@pytest.mark.parametrize("factor", [0.6, 1.5, 3.3])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_scale_that_does_not_divide_the_length(mode, factor):
    for coordinates in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"):
        check(scales(factor), mode=mode, coordinate_transformation_mode=coordinates)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest_rounds_halves_as_asked(rounding):
    for factor in (0.6, 1.5, 2.5):
        check(scales(factor), mode="nearest", nearest_mode=rounding)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_smoothing_and_taps_outside(mode):
    for factor in (0.25, 0.6, 1.5):
        check(scales(factor), mode=mode, antialias=1)
    check(scales(1.5), mode="cubic", exclude_outside=1)


@pytest.mark.parametrize("shape", [(1, 2, 9), (1, 2, 5, 4, 3)])
def test_other_ranks(shape):
    for mode in ("nearest", "linear"):
        check(scales(1.5, len(shape)), shape=shape, mode=mode)


def test_one_output_of_a_row():
    sizes = {"_": None, "r": np.zeros(0, np.float32), "z": np.array([1, 2, 1, 5])}
    for coordinates in ("align_corners", "pytorch_half_pixel"):
        check(sizes, mode="linear", coordinate_transformation_mode=coordinates)


def test_named_axes_and_kept_ratio():
    sizes = {"_": None, "r": np.zeros(0, np.float32), "z": np.array([14, 11])}
    for policy in ("stretch", "not_larger", "not_smaller"):
        check(sizes, mode="nearest", axes=[2, 3], keep_aspect_ratio_policy=policy)


def test_whole_factors_stay_one_operator():
    assert len(calls(check(scales(2.0), mode="nearest"), "relax.image.resize2d")) == 1
    assert len(calls(check(scales(3.0), mode="linear"), "relax.image.resize2d")) == 1


def test_what_is_refused_is_named():
    model, _ = model_of(scales(2.0), coordinate_transformation_mode="tf_crop_and_resize")
    with pytest.raises(UnsupportedOperatorError, match=r"node 'y' \(Resize\).*tf_crop_and_resize"):
        load_model(model)
    model, _ = model_of(scales(0.01), shape=(1, 1, 200, 200), mode="linear", antialias=1)
    with pytest.raises(UnsupportedOperatorError, match=r"100 times smaller"):
        load_model(model)
    feeds = {"x": RNG.standard_normal(SHAPE).astype("f4"), "s": np.array([1, 1, 2, 2], np.float32)}
    with pytest.raises(ModelError, match=r"node 'y' \(Resize\): its scales or sizes"):
        load_model(make_model([node("Resize", "x _ s")], feeds))
