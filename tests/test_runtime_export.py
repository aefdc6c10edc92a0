"""Exported folders, on this machine: the runner, its messages, the command."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.resources import as_file, files

import numpy as np
import onnx
import pytest
import tvm_ffi.libinfo
from conftest import build_tiny

import tvmquant
from tvmquant.errors import BundleError, InputError
from tvmquant.runtime import CompiledModel
from tvmquant.runtime.bundle import elf_architecture
from tvmquant.runtime.export import export_bundle, exported_bytes
from tvmquant.runtime.libraries import LIBRARIES, runtime_libraries
from tvmquant.runtime.runner import model_header
from tvmquant.runtime.toolchain import find_toolchain, machine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bundles are for Linux")
FOREIGN = "aarch64" if machine() != "aarch64" else "x86_64"


@pytest.fixture(scope="module")
def bundle(tiny_model, tmp_path_factory):
    """The tiny program as a bundle; do not write to it."""
    return tiny_model.export(tmp_path_factory.mktemp("export") / "tiny")


@pytest.fixture
def arrays(tiny_inputs, tmp_path):
    """Its inputs as .npy files, in order."""
    for name, array in tiny_inputs.items():
        np.save(tmp_path / f"{name}.npy", array)
    return [tmp_path / "x.npy", tmp_path / "shift.npy"]


def run(bundle, *arguments):
    command = [bundle / "run", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # TVM's runtime logs a line of its own where a module was built after certain others.
    done.stderr = re.sub(r"^\[[\d:]+\] .*Warning: Scope Loaded:.*\n", "", done.stderr, flags=re.M)
    return done


def refusal(bundle, *arguments, code=2):
    done = run(bundle, *arguments)
    assert done.returncode == code and done.stdout == "" and done.stderr.startswith("run: ")
    return done.stderr


def test_it_has_what_it_says(bundle, tiny_model):
    names = {"README", "SHA256SUMS", "manifest.json", "model.so", "run", *LIBRARIES}
    assert {path.name for path in bundle.iterdir()} == names
    assert set(json.loads((bundle / "manifest.json").read_text())["files"]) == names - {
        "manifest.json"
    }
    readme = (bundle / "README").read_text()
    assert all(name in readme for name in names)
    assert "./run x.npy shift.npy -o y.npy -o z.npy" in readme
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=bundle, check=True)
    assert exported_bytes(bundle) == sum(path.stat().st_size for path in bundle.iterdir())
    assert tvmquant.load(bundle).manifest == tiny_model.manifest


def test_the_runner_gives_the_same_bits(bundle, tiny_model, tiny_inputs, arrays, tmp_path):
    outs = [tmp_path / "y.npy", tmp_path / "z.npy"]
    done = run(bundle, *arrays, "-o", outs[0], "-o", outs[1], "--threads", 1)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for out, want in zip(outs, tiny_model.run(tiny_inputs).values()):
        got = np.load(out)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    assert not list(tmp_path.glob("*.partial"))


def test_it_can_be_started_from_anywhere(bundle, arrays, tmp_path):
    moved = shutil.copytree(bundle, tmp_path / "a folder")
    here = ["--bench", "3", "x.npy", "shift.npy"]
    done = subprocess.run(["a folder/run", *here], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "(3 runs, " in done.stdout, done.stderr
    assert (moved / "run").exists()


def test_help_and_info(bundle):
    assert run(bundle, "--help").stdout.startswith("usage: run IN.npy")
    lines = run(bundle, "--info").stdout.splitlines()
    assert lines[0].startswith("tiny.onnx, made for host")
    assert lines[1:3] == ["input  x: <f4 (2, 16)", "input  shift: <f4 (8,)"]
    assert lines[3:] == ["output y: <f4 (2, 8)", "output z: <f4 (4, 4)"]


def test_wrong_arguments(bundle, arrays, tmp_path):
    out = ["-o", tmp_path / "y.npy", "-o", tmp_path / "z.npy"]
    assert "takes 2 input files" in refusal(bundle)
    assert "takes 2 input files" in refusal(bundle, arrays[0], *out)
    assert "takes 2 input files" in refusal(bundle, *arrays, arrays[0], *out)
    assert "give -o for each of 2 outputs" in refusal(bundle, *arrays, *out[:2])
    assert "-o is given too often" in refusal(bundle, *arrays, *out, *out)
    assert "unknown option --x" in refusal(bundle, "--x")
    assert "-o takes the name of a file" in refusal(bundle, "-o")
    assert "leave -o away" in refusal(bundle, "--bench", 1, *out)
    for number in ("0", "x", "1x", ""):
        assert "--bench takes a number" in refusal(bundle, "--bench", number)
    assert "--threads takes a number" in refusal(bundle, "--threads")


def test_wrong_files(bundle, arrays, tmp_path):
    out = ["-o", tmp_path / "y.npy", "-o", tmp_path / "z.npy"]

    def said(first):
        return refusal(bundle, first, arrays[1], *out)

    wrong = tmp_path / "wrong.npy"
    assert "cannot read" in said(tmp_path / "missing.npy")
    wrong.write_text("not an array")
    assert f"{wrong} is not a .npy file" in said(wrong)
    for array in (
        np.zeros((2, 17), "float32"),
        np.zeros((2, 16), "float64"),
        np.zeros((2, 16), ">f4"),
        np.asfortranarray(np.zeros((2, 16), "float32")),
    ):
        np.save(wrong, array)
        assert "does not fit the input x, which takes <f4 (2, 16) in C order" in said(wrong)
    whole = arrays[0].read_bytes()
    for size in (3, 9, 40, len(whole) - 1):
        wrong.write_bytes(whole[:size])
        assert "is cut off" in said(wrong) or "is not a .npy file" in said(wrong)
    missing = tmp_path / "no" / "folder.npy"
    assert f"cannot write {missing}" in refusal(bundle, *arrays, "-o", missing, *out[:2])
    # Version 2 of the format has a longer header.
    with wrong.open("wb") as stream:
        np.lib.format.write_array(stream, np.load(arrays[0]), version=(2, 0))
    assert run(bundle, wrong, arrays[1], *out).returncode == 0


def test_a_bundle_that_lost_a_file_says_which(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / "model.so").unlink()
    assert "cannot load model.so" in refusal(copy, "--bench", 1, code=1)
    (copy / "libtvm_runtime.so").write_bytes(b"\x7fELF")
    assert "cannot load libtvm_runtime.so" in refusal(copy, "--bench", 1, code=1)


def dtypes_model():
    """One input and output of every kind of element, a scalar among them."""
    kinds = {"f": 1, "d": 11, "i": 6, "l": 7, "u": 2, "s": 3, "b": 9}
    info = onnx.helper.make_tensor_value_info
    inputs = [info(name, kind, [3]) for name, kind in kinds.items()] + [info("one", 1, [])]
    outputs = [info(f"{i.name}_out", i.type.tensor_type.elem_type, None) for i in inputs]
    nodes = [onnx.helper.make_node("Identity", [i.name], [f"{i.name}_out"]) for i in inputs]
    graph = onnx.helper.make_graph(nodes, "kinds", inputs, outputs)
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )


def test_every_kind_of_element(tmp_path):
    model = tvmquant.compile(dtypes_model())
    bundle = model.export(tmp_path / "bundle")
    rng = np.random.default_rng(0)
    sources, targets = [], []
    for info in model.inputs:
        sources.append(tmp_path / f"{info.name}.npy")
        np.save(sources[-1], np.asarray(rng.integers(0, 2, info.shape), info.dtype))
        targets += ["-o", tmp_path / f"{info.name}_out.npy"]
    done = run(bundle, *sources, *targets)
    assert done.returncode == 0, done.stderr
    for source, target in zip(sources, targets[1::2]):
        want, got = np.load(source), np.load(target)
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_array_equal(got, want)


def test_constants_that_are_expanded_at_load_time(tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype("float32") / 9
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["z"], pads=[1] * 4)],
        "winograd",
        [info("x", 1, [1, 64, 28, 28])],
        [info("z", 1, [1, 64, 28, 28])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    proto = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    x = np.random.default_rng(1).standard_normal((1, 64, 28, 28)).astype("float32")
    model = tvmquant.compile(proto, calibration=[{"x": x}])
    if not model.manifest.expanded_bytes:
        pytest.skip("no kernel of this processor expands its weights")
    np.save(tmp_path / "x.npy", x)
    for static in (False, True):
        bundle = model.export(tmp_path / f"bundle{static}", static=static)
        done = run(bundle, tmp_path / "x.npy", "-o", tmp_path / "z.npy")
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), model(x))
    with pytest.raises(BundleError, match="has its model inside the program run"):
        tvmquant.load(bundle)


def test_texts_with_odd_characters_reach_the_runner():
    manifest = build_tiny()[1]
    text = model_header(replace(manifest, source='a "b"\\\n??/é'), "aarch64")
    assert '#define MODEL_NAME "a \\042b\\042\\134\\012\\077\\077/\\303\\251"' in text


def test_the_runner_compiles_without_a_warning(tmp_path):
    manifest = build_tiny(features=["neon", "dotprod"])[1]
    (tmp_path / "model.h").write_text(model_header(manifest, "aarch64"))
    headers = (tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path())
    with as_file(files("tvmquant") / "assets") as assets:
        folders = (tmp_path, assets, *headers)
        for extra in ([], ["-DTVMQUANT_STATIC"]):
            find_toolchain(machine()).run(
                *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", *extra),
                *(f"-I{folder}" for folder in folders),
                *("-c", assets / "runner.c", "-o", tmp_path / "runner.o"),
            )


def test_the_runtime_must_fit_the_model(tiny_model, tmp_path):
    with pytest.raises(BundleError, match=r"there is no .*libtvm_ffi\.so: name a folder with"):
        tiny_model.export(tmp_path / "out", runtime=tmp_path)
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    header[18:20] = (243).to_bytes(2, "little")
    for name in LIBRARIES:
        (tmp_path / name).write_bytes(header)
    with pytest.raises(BundleError, match=f"is for riscv64, the model for {machine()}"):
        tiny_model.export(tmp_path / "out", runtime=tmp_path)
    assert not (tmp_path / "out").exists()


def test_32_bit_arm_links_without_a_runtime(tmp_path):
    pytest.importorskip("ziglang")
    demo = str(files("tvmquant") / "assets" / "demo.onnx")
    model = tvmquant.compile(demo, target="armv7l", bits="w2a2")
    with pytest.raises(BundleError, match=r"no runtime for arm: give --runtime PATH .* --no-run"):
        model.export(tmp_path / "out")
    bundle = model.export(tmp_path / "out", runtime=False)
    assert [elf_architecture(bundle / name) for name in ("model.so", "run")] == ["arm", "arm"]


def test_bundles_are_for_linux(tiny_build, tmp_path):
    manifest = replace(tiny_build[1], target_json='{"mtriple": "arm64-apple-darwin"}')
    model = CompiledModel(manifest, tiny_build[0].jit, lambda path: None)
    with pytest.raises(InputError, match="bundles are for Linux, the model is for arm64-apple-dar"):
        model.export(tmp_path / "out")


def test_a_download_that_fails_names_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TVMQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(BundleError, match=r"cannot download .* --runtime PATH .* --no-runtime"):
        runtime_libraries(FOREIGN)
    assert not list((tmp_path / "cache").iterdir())


def test_a_failure_leaves_nothing(tiny_build, tmp_path):
    def full(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    model = CompiledModel(tiny_build[1], tiny_build[0].jit, full)
    with pytest.raises(BundleError, match="No space left"):
        model.export(tmp_path / "out", runtime=False)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_replaces_a_saved_model_and_the_other_way_round(tiny_model, tmp_path):
    folder = tmp_path / "model"
    for _ in range(2):
        tiny_model.save(folder)
        assert {path.name for path in folder.iterdir()} == {"model.so", "manifest.json"}
        tiny_model.export(folder, runtime=False)
        assert (folder / "run").exists()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="not empty"):
        tiny_model.save(folder)


def test_a_folder_is_exported_as_it_is(tiny_bundle, tiny_model, tmp_path):
    bundle = export_bundle(tiny_bundle, tmp_path / "out", runtime=False)
    assert (bundle / "model.so").read_bytes() == (tiny_bundle / "model.so").read_bytes()
    with pytest.raises(InputError, match="cannot become static"):
        export_bundle(tiny_bundle, tmp_path / "out", static=True)
