"""The whole chain on an emulated Raspberry Pi: compile, link, bundle, run."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest
from emulated_pi import CPUS
from networks import interpret

import tvmquant
from tvmquant.passes.pipeline import to_integers
from tvmquant.runtime.export import export_bundle, exported_bytes

pytest.importorskip("ziglang")

DEMO = Path(str(files("tvmquant") / "assets" / "demo.onnx"))
PRECISIONS = ("w8a8", "w4a8", "w4a4", "w2a2", "w1a1")
LITE0 = Path(__file__).parents[2] / "shared" / "models" / "efficientnet_lite0.onnx"


def quantize(path, precision, x):
    """Any ranges will do, and quickly: the numbers only have to be the same everywhere."""
    recipe = tvmquant.Recipe.for_bits(precision, rounding="nearest", bias_correction=False)
    return tvmquant.quantize(path, recipe=recipe, calibration=x)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "picture.npy"
    noise = np.random.default_rng(0).standard_normal((1, 1, 28, 28))
    np.save(path, noise.astype("float32"))
    return path


def run_bundle(pi, bundle, cpu, inputs, folder, **options):
    out = folder / f"{bundle.name}-{cpu}.npy"
    pi.run([bundle / "run", *inputs, "-o", out], cpu=cpu, **options)
    return np.load(out)


@pytest.fixture(scope="module")
def quantized(picture):
    return quantize(DEMO, "w8a8", np.load(picture))


@pytest.fixture(scope="module")
def pi4(quantized):
    """The network of the demo for the Raspberry Pi 4."""
    return tvmquant.compile(quantized, target="rpi4")


@pytest.fixture(scope="module")
def pi5_bundle(quantized, tmp_path_factory):
    """Bundle for the Raspberry Pi 5; do not write to it."""
    return tvmquant.compile(quantized, target="rpi5").export(
        tmp_path_factory.mktemp("pi5") / "whole"
    )


@pytest.mark.parametrize(
    "precision",
    [pytest.param(p, marks=pytest.mark.slow) if p in ("w4a8", "w2a2") else p for p in PRECISIONS],
)
def test_bundles_give_the_bits_of_the_host_and_of_numpy(pi, picture, tmp_path, precision):
    x = np.load(picture)
    quantized = quantize(DEMO, precision, x)
    (want,) = interpret(to_integers(quantized.mod, quantized.recipe), [x])
    np.testing.assert_array_equal(tvmquant.compile(quantized)(x), want)
    # A binary for the Pi 4 runs on the cores of all three, one for the Pi 5 on that only.
    for target, cpus in {"rpi4": CPUS, "rpi5": ("cortex-a76",)}.items():
        bundle = tvmquant.compile(quantized, target=target).export(tmp_path / target)
        for cpu in cpus:
            got = run_bundle(pi, bundle, cpu, [picture], tmp_path)
            np.testing.assert_array_equal(got, want, err_msg=f"{target} on {cpu}")


def test_every_way_to_package_a_model_runs(pi, pi4, picture, tmp_path):
    saved = pi4.save(tmp_path / "saved")
    usual = export_bundle(saved, tmp_path / "usual")
    want = run_bundle(pi, usual, "cortex-a53", [picture], tmp_path)
    static = pi4.export(tmp_path / "static", static=True)
    assert not (static / "model.so").exists()
    np.testing.assert_array_equal(run_bundle(pi, static, "cortex-a53", [picture], tmp_path), want)
    bare = pi4.export(tmp_path / "bare", runtime=False)
    assert sorted(path.name for path in bare.glob("*.so")) == ["model.so"]
    # The runtime is somewhere else on the device.
    elsewhere = {"LD_LIBRARY_PATH": str(usual)}
    got = run_bundle(pi, bare, "cortex-a53", [picture], tmp_path, env=elsewhere)
    np.testing.assert_array_equal(got, want)
    lost = pi.run([bare / "run", picture, "-o", tmp_path / "x.npy"], check=False)
    assert lost.returncode == 1 and "cannot load libtvm_ffi.so" in lost.stderr
    own = pi4.export(tmp_path / "own", runtime=usual)
    assert (own / "libtvm_ffi.so").read_bytes() == (usual / "libtvm_ffi.so").read_bytes()
    said = pi.run([usual / "run", "--bench", "2", "--threads", "1"]).stdout
    assert said.startswith("demo.onnx: median ") and "(2 runs, 1 threads, " in said
    assert 5 < peak_megabytes(said) < 64


def peak_megabytes(said):
    """What the runner reports; under qemu with qemu's own memory."""
    return float(said.partition("peak memory ")[2].split()[0])


def test_a_processor_that_lacks_an_instruction_is_told(pi, pi5_bundle, picture, tmp_path):
    out = tmp_path / "y.npy"
    done = pi.run([pi5_bundle / "run", picture, "-o", out], cpu="cortex-a72", check=False)
    assert done.returncode == 1
    assert "lacks dotprod: the model was compiled for rpi5" in done.stderr
    assert not out.exists()


def float_functions():
    """A network of functions that are in libm, each in a row of the output."""
    operators = ("Sin", "Tanh", "Erf", "Softmax", "Sigmoid", "Exp", "Atan", "Softplus")
    make = onnx.helper.make_node
    nodes = [make(name, ["x"], [name]) for name in operators]
    nodes.append(make("Concat", list(operators), ["y"], axis=0))
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "floats", [info("x", 1, [1, 16])], [info("y", 1, [len(operators), 16])]
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )


def test_float_operators_find_the_mathematical_functions(pi, tmp_path):
    x = np.linspace(-3, 3, 16, dtype="float32")[None]
    np.save(tmp_path / "x.npy", x)
    want = tvmquant.compile(float_functions())(x)
    model = tvmquant.compile(float_functions(), target="rpi4")
    for static in (False, True):
        bundle = model.export(tmp_path / f"bundle{static}", static=static)
        got = run_bundle(pi, bundle, "cortex-a72", [tmp_path / "x.npy"], tmp_path)
        # Two libraries of functions, so not bit for bit.
        np.testing.assert_allclose(got, want, rtol=3e-7, atol=1e-7)


LOAD = """
import sys, numpy as np, tvmquant
from tvmquant.targets.hwcap import arm_features
print(*sorted(arm_features()))
x, out, *folders = sys.argv[1:]
for folder in folders:
    try:
        np.save(out, tvmquant.load(folder)(np.load(x)))
    except tvmquant.BundleError as error:
        print(error)
"""


def test_python_on_the_pi_loads_bundles_and_refuses_others(
    pi_python, quantized, pi5_bundle, picture, tmp_path
):
    host = tvmquant.compile(quantized)
    host.save(tmp_path / "foreign")
    for name in ("damaged", "older"):
        shutil.copytree(pi5_bundle, tmp_path / name)
    with (tmp_path / "damaged" / "libtvm_ffi.so").open("ab") as stream:
        stream.write(b"!")
    manifest = tmp_path / "older" / "manifest.json"
    data = json.loads(manifest.read_text())
    data["model"]["versions"]["apache-tvm"] = "0.26.0"
    manifest.write_text(json.dumps(data))
    others = [tmp_path / name for name in ("damaged", "foreign", "older")]
    arguments = ["-c", LOAD, picture, tmp_path / "y.npy", *others, pi5_bundle]
    features, *said = pi_python.run_python(arguments, cpu="cortex-a76").stdout.splitlines()
    assert features == "dotprod neon"
    expected = ("libtvm_ffi.so does not match the checksum", "compiled for x86_64", "tvm 0.26.0")
    assert len(said) == 3
    for line, folder, words in zip(said, others, expected):
        assert words in line and str(folder) in line
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), host(np.load(picture)))
    arguments = ["-c", LOAD, picture, tmp_path / "no.npy", pi5_bundle]
    features, said = pi_python.run_python(arguments, cpu="cortex-a72").stdout.splitlines()
    assert features == "neon" and "this processor lacks dotprod" in said


# They take minutes; the network of the demo runs at every precision above.
@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_efficientnet_lite0(pi, tmp_path, precision):
    if not LITE0.is_file():
        pytest.skip("the shared EfficientNet-Lite0 is not beside this checkout")
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    quantized = quantize(LITE0, precision, x)
    (want,) = interpret(to_integers(quantized.mod, quantized.recipe), [x])
    np.testing.assert_array_equal(tvmquant.compile(quantized)(x), want)
    for target, cpus in {"rpi4": CPUS, "rpi5": ("cortex-a76",)}.items():
        bundle = tvmquant.compile(quantized, target=target).export(tmp_path / target)
        for cpu in cpus:
            got = run_bundle(pi, bundle, cpu, [tmp_path / "x.npy"], tmp_path)
            np.testing.assert_array_equal(got, want, err_msg=f"{target} on {cpu}")
    assert exported_bytes(bundle) <= 12e6
    said = pi.run([bundle / "run", "--bench", "1", "--threads", "1"], cpu="cortex-a76").stdout
    assert peak_megabytes(said) <= 64
