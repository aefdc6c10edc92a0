"""tvmquant.frontend.load_model"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tvm
from frontend_tools import bindings, make_model, node, run_tvm
from tvm import relax

import tvmquant
from tvmquant.errors import InputError, ModelError
from tvmquant.frontend import CalibrationSource, InputInfo, load_model

X = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
SHARED = Path(__file__).resolve().parents[2] / "shared" / "models"


def open_model():
    relu = node("Relu", "im.age", "out.put", name="r")
    model = make_model([relu], {"im.age": X}, outputs=("out.put",))
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "size"
    return model


def test_names_are_the_original_ones(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(open_model(), path)
    for source in (path, str(path), open_model()):
        loaded = load_model(source, input_shapes={"im.age": (1, 3, 4, 4)})
        assert loaded.inputs == (InputInfo("im.age", (1, 3, 4, 4), "float32"),)
        assert loaded.output_names == ("out.put",)
        assert isinstance(loaded.mod, tvm.IRModule)


def test_sample_fixes_the_shape():
    loaded = load_model(open_model(), sample={"im.age": X})
    assert loaded.inputs[0].shape == X.shape
    source = CalibrationSource(x for x in [X, X])
    assert load_model(open_model(), sample=source).inputs[0].shape == X.shape
    assert len(list(source.batches(loaded.inputs))) == 2


def test_open_shape_is_an_error():
    with pytest.raises(ModelError, match=r"--input-shape im\.age=1,3,224,224"):
        load_model(open_model())


def relax_model(shape=(1, 4)):
    x = relax.Var("data", relax.TensorType(shape, "float32"))
    bb = relax.BlockBuilder()
    with bb.function("main", [x]):
        with bb.dataflow():
            a = bb.emit(relax.op.nn.relu(x))
            out = bb.emit_output(relax.Tuple([a, x]))
        bb.emit_func_output(out)
    return bb.get()


def test_relax_module():
    loaded = load_model(relax_model())
    assert loaded.inputs == (InputInfo("data", (1, 4), "float32"),)
    assert loaded.output_names == ("output_0", "output_1")


def test_relax_module_that_cannot_be_used():
    with pytest.raises(ModelError, match="no Relax function 'main'"):
        load_model(tvm.IRModule())
    with pytest.raises(ModelError, match=r"input 'data'.*no static shape"):
        load_model(relax_model((tvm.tirx.Var("n", "int64"), 4)))


def test_other_things_are_refused():
    with pytest.raises(InputError, match=r"model of type dict: pass the path of an .onnx file"):
        load_model({"weights": 1})


def test_bundled_demo_equals_onnxruntime():
    path = Path(tvmquant.__file__).parent / "assets" / "demo.onnx"
    loaded = load_model(path)
    rng = np.random.default_rng(0)
    feeds = {i.name: rng.standard_normal(i.shape).astype(i.dtype) for i in loaded.inputs}
    want = ort.InferenceSession(path).run(None, feeds)
    for a, b in zip(run_tvm(path, feeds), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not (SHARED / "efficientnet_lite0.onnx").exists(), reason="no shared models")
def test_efficientnet_equals_onnxruntime():
    path = SHARED / "efficientnet_lite0.onnx"
    image = np.load(SHARED / "inputs" / "efficientnet_lite0.npz")["in:image"]
    want = ort.InferenceSession(path).run(None, {"image": image})[0]
    loaded = load_model(path)
    assert ("Conv_1", "relax.nn.conv2d") in bindings(loaded.mod)
    np.testing.assert_allclose(run_tvm(path, {"image": image})[0], want, rtol=1e-3, atol=1e-4)
