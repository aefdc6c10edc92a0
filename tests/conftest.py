"""Shared fixtures: a tiny hand-made program, so that the runtime is tested without the compiler."""

import json
import os
import signal

import numpy as np
import pytest
import tvm
from emulated_pi import Unavailable, emulated_pi
from tvm import relax

from tvmquant.runtime import CompiledModel, LayerInfo, Manifest, TensorInfo, current_versions
from tvmquant.targets.device import get_device

WEIGHT = np.random.default_rng(7).standard_normal((16, 8)).astype("float32")


def pytest_configure():
    """Heed Ctrl-C also where a shell started this in the background; programs inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _environment():
    """Commands that run inside the tests may set variables for their process: undo it."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


def tiny_reference(x, shift):
    """NumPy meaning of the tiny program: relu(x @ W + shift), and the same reshaped."""
    y = np.maximum(x @ WEIGHT + shift, 0)
    return y, y.reshape(4, 4)


def build_tiny(features=None, versions=None):
    """Compile the tiny program; returns what ``tvm.compile`` gave and its manifest."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([2, 16], "float32"))
    shift = relax.Var("shift", relax.TensorType([8], "float32"))
    with builder.function("main", [x, shift]):
        with builder.dataflow():
            y = builder.emit(relax.op.matmul(x, relax.const(WEIGHT)))
            y = builder.emit(relax.op.nn.relu(relax.op.add(y, shift)))
            z = builder.emit(relax.op.reshape(y, (4, 4)))
            out = builder.emit_output(relax.Tuple([y, z]))
        builder.emit_func_output(out)
    module = relax.transform.LegalizeOps()(builder.get())
    device = get_device("host")

    def layer(symbol, shapes, output, **extra):
        return LayerInfo(f"layer_{symbol}", symbol, "default", symbol, shapes, output, **extra)

    manifest = Manifest(
        inputs=(TensorInfo("x", (2, 16), "float32"), TensorInfo("shift", (8,), "float32")),
        outputs=(TensorInfo("y", (2, 8), "float32"), TensorInfo("z", (4, 4), "float32")),
        layers=(
            layer("matmul", ((2, 16),), (2, 8), weight_bytes=WEIGHT.nbytes, macs=2 * 16 * 8),
            layer("add", ((2, 8), (8,)), (2, 8)),
            layer("relu", ((2, 8),), (2, 8), activation_bits=8),
            layer("reshape", ((2, 8),), (4, 4)),
        ),
        precision="w8a8",
        recipe={"requantize": "float"},
        target="host",
        target_json=device.target_json,
        features=sorted(device.features) if features is None else features,
        versions=current_versions() if versions is None else versions,
        source="tiny.onnx",
    )
    return tvm.compile(module, target=device.target), manifest


@pytest.fixture(scope="session")
def tiny_build():
    return build_tiny()


@pytest.fixture(scope="session")
def tiny_model(tiny_build):
    return CompiledModel.from_build(*tiny_build)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model, tmp_path_factory):
    """Folder of the saved tiny program; do not write to it."""
    return tiny_model.save(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def tiny_inputs():
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((2, 16)).astype("float32"),
        "shift": rng.standard_normal(8).astype("float32"),
    }


@pytest.fixture
def edit_manifest():
    """Change keys of a bundle's manifest.json: ``edit_manifest(folder, {"format": "x"})``."""

    def edit(folder, changes=None, model=None):
        path = folder / "manifest.json"
        data = json.loads(path.read_text())
        data.update(changes or {})
        data["model"].update(model or {})
        path.write_text(json.dumps(data))

    return edit


def _pi(python):
    try:
        return emulated_pi(python)
    except Unavailable as reason:
        pytest.skip(f"no emulated Raspberry Pi: {reason}")


@pytest.fixture(scope="session")
def pi():
    """Emulated Raspberry Pi with the C libraries only: ``pi.run(argv, cpu="cortex-a72")``."""
    return _pi(python=False)


@pytest.fixture(scope="session")
def pi_python():
    """Emulated Raspberry Pi with Python and TVM: ``pi_python.run_python(["-c", …])``."""
    return _pi(python=True)
