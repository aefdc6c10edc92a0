"""The command line: results, exit codes, one-line errors."""

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import tvmquant
from tvmquant.cli import main
from tvmquant.demo import normalise

ASSETS = Path(str(files("tvmquant") / "assets"))
DEMO = str(ASSETS / "demo.onnx")


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(result, *words):
    """Exit code 2, nothing on stdout, one line on stderr that holds ``words``."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert str(word) in result.stderr
    return True


@pytest.fixture
def inputs_npz(tiny_inputs, tmp_path):
    np.savez(tmp_path / "in.npz", **tiny_inputs)
    return tmp_path / "in.npz"


@pytest.fixture(scope="module")
def data():
    """Pictures prepared for the network of the demo."""
    with np.load(ASSETS / "demo_test.npz") as arrays:
        return normalise(arrays["x"][:50]), arrays["y"][:50], normalise(arrays["x_calib"][:16])


@pytest.fixture(scope="module")
def compiled(data, tmp_path_factory):
    """The demo network compiled by the command at batch 4, and the run's result."""
    folder = tmp_path_factory.mktemp("cli")
    np.savez(folder / "calibration.npz", image=data[2])
    result = cli(
        *("compile", DEMO, "-o", folder / "model", "--bits", "w4a8"),
        *("--calibration", folder / "calibration.npz", "--input-shape", "image=4,1,28,28"),
    )
    return folder / "model", result


def test_version_and_help():
    assert cli("--version").stdout == f"tvmquant, version {tvmquant.__version__}\n"
    text = cli("--help").stdout
    for command in ("compile", "run", "bench", "inspect", "evaluate", "demo"):
        assert command in text


def test_help_does_not_import_tvm():
    code = "import sys, tvmquant.cli; sys.exit(any(m in sys.modules for m in ('tvm', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_compile_says_what_it_wrote(compiled):
    folder, result = compiled
    assert result.exit_code == 0, result.output
    assert str(folder) in result.stdout and "w4a8 for host" in result.stdout
    assert f"{(folder / 'model.so').stat().st_size:,} bytes" in result.stdout


def test_the_compiled_network_gives_what_the_python_interface_gives(compiled, data, tmp_path):
    folder, _ = compiled
    np.savez(tmp_path / "in.npz", image=data[0][:4])
    result = cli("run", folder, "--inputs", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    assert result.exit_code == 0, result.output
    logits = np.load(tmp_path / "out.npz")["logits"]
    np.testing.assert_array_equal(logits, tvmquant.load(folder)(data[0][:4]))
    assert logits.shape == (4, 10)


def test_evaluate_on_a_dataset_whose_last_batch_is_short(compiled, data, tmp_path):
    folder, _ = compiled
    np.savez(tmp_path / "d.npz", x=data[0], y=data[1])
    result = cli("evaluate", folder, "--dataset", tmp_path / "d.npz", "--json")
    found = json.loads(result.stdout)
    assert found["samples"] == 50
    # Far above the 10 % of chance: 4-bit weights keep most of the accuracy.
    assert found["top1"] > 0.6


def test_inspect_lists_the_layers_of_the_network(compiled):
    folder, _ = compiled
    result = cli("inspect", folder)
    assert result.exit_code == 0, result.output
    for word in ("conv2d", "w4a8", "w8a8", "demo.onnx", "image: float32 [4, 1, 28, 28]", "total"):
        assert word in result.stdout


def test_a_real_process_compiles_and_runs(data, tmp_path):
    tvmquant_command = [sys.executable, "-m", "tvmquant"]
    np.savez(tmp_path / "c.npz", image=data[2])
    np.savez(tmp_path / "in.npz", image=data[0][:1])
    for arguments in (
        ["compile", DEMO, "-o", "m", "--calibration", "c.npz", "--input-shape", "image=1,1,28,28"],
        ["run", "m", "--inputs", "in.npz", "-o", "out.npz"],
        ["bench", "m", "--repeats", "2", "--json"],
    ):
        done = subprocess.run(
            [*tvmquant_command, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["repeats"] == 2
    assert np.load(tmp_path / "out.npz")["logits"].shape == (1, 10)


def test_a_recipe_file_decides_the_bits(tmp_path, data):
    recipe = tvmquant.Recipe.for_bits(8, layers=(tvmquant.LayerRule("*", weight_bits=2),))
    recipe.save(tmp_path / "r.json")
    np.savez(tmp_path / "c.npz", image=data[2])
    result = cli(
        *("compile", DEMO, "-o", tmp_path / "m", "--recipe", tmp_path / "r.json"),
        *("--calibration", tmp_path / "c.npz", "--input-shape", "image=1,1,28,28"),
    )
    assert result.exit_code == 0, result.output
    layers = json.loads(cli("inspect", tmp_path / "m", "--json").stdout)["layers"]
    assert {layer["weight_bits"] for layer in layers if layer["weight_bits"]} == {2}


def test_without_calibration_there_is_a_loud_warning(tmp_path):
    result = cli("compile", DEMO, "-o", tmp_path / "m", "--input-shape", "image=1,1,28,28")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("warning: ") and "calibration" in result.stderr.lower()


def test_run_writes_named_outputs(tiny_bundle, tiny_model, tiny_inputs, inputs_npz, tmp_path):
    out = tmp_path / "result"
    result = cli("run", tiny_bundle, "--inputs", inputs_npz, "-o", out)
    assert result.exit_code == 0, result.output
    assert "y: float32 [2, 8]" in result.stdout
    written = np.load(out)
    for name, array in tiny_model.run(tiny_inputs).items():
        np.testing.assert_array_equal(written[name], array)


def test_bench_in_json_with_a_profile(tiny_bundle, inputs_npz):
    result = cli(
        *("bench", tiny_bundle, "--repeats", 3, "--warmup", 0, "--json", "--profile"),
        *("--inputs", inputs_npz),
    )
    data = json.loads(result.stdout)
    assert (data["repeats"], data["warmup"], data["threads"]) == (3, 0, 1)
    assert [layer["symbol"] for layer in data["profile"]["layers"]][:2] == ["matmul", "add"]


def test_bench_as_text_with_a_profile(tiny_bundle):
    result = cli("bench", tiny_bundle, "--repeats", 2, "--profile")
    assert result.exit_code == 0, result.output
    assert "runs/s" in result.stdout and "layer_relu" in result.stdout


def test_bench_uses_the_threads_it_is_given(tiny_bundle):
    command = [sys.executable, "-m", "tvmquant", "bench", str(tiny_bundle), "--json"]
    done = subprocess.run(
        [*command, "--repeats", "1", "--threads", "2"], capture_output=True, text=True, check=False
    )
    if (os.cpu_count() or 1) >= 2:
        assert json.loads(done.stdout)["threads"] == 2
    else:
        assert done.returncode == 2 and "threads" in done.stderr


def test_inspect_as_json(tiny_bundle, tiny_model):
    data = json.loads(cli("inspect", tiny_bundle, "--json").stdout)
    assert data.pop("library_bytes") == (tiny_bundle / "model.so").stat().st_size
    assert tvmquant.Manifest.from_dict(data) == tiny_model.manifest


def test_evaluate_refuses_what_is_no_dataset(tiny_bundle, inputs_npz, tmp_path):
    assert refused(cli("evaluate", tiny_bundle, "--dataset", inputs_npz), inputs_npz, "x, shift")


class TestBadInput:
    """Each names the thing and says what to do, and leaves nothing behind."""

    def test_model_files(self, tmp_path):
        (tmp_path / "broken.onnx").write_bytes(b"not a model")
        (tmp_path / "empty.onnx").write_bytes(b"")
        for name in ("missing.onnx", "broken.onnx", "empty.onnx"):
            refused(cli("compile", tmp_path / name, "-o", tmp_path / "out"), tmp_path / name)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("option", "value", "word"),
        [
            ("--bits", "3", "'3'"),
            ("--bits", "w4", "'w4'"),
            ("--target", "toaster", "toaster"),
            ("--target", "{broken", "JSON"),
            ("--target", '{"kind": "toaster"}', "toaster"),
            ("--input-shape", "image", "NAME="),
            ("--input-shape", "image=1,a", "image=1,a"),
            ("--input-shape", "image=1,0,28,28", "positive"),
            ("--input-shape", "picture=1,1,28,28", "picture"),
            ("--recipe", "missing.json", "missing.json"),
            ("--calibration", "missing.npz", "missing.npz"),
        ],
    )
    def test_options(self, tmp_path, monkeypatch, option, value, word):
        monkeypatch.chdir(tmp_path)
        refused(cli("compile", DEMO, "-o", "out", option, value), word)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("array", "word"),
        [
            (np.full((2, 1, 28, 28), np.nan, "float32"), "'image'"),
            (np.zeros((0, 1, 28, 28), "float32"), "empty"),
            (np.zeros((2, 3, 28, 28), "float32"), "[1, 3, 28, 28]"),
        ],
        ids=["nan", "empty", "wrong shape"],
    )
    def test_calibration_arrays(self, tmp_path, monkeypatch, array, word):
        monkeypatch.chdir(tmp_path)
        np.savez("c.npz", image=array)
        shape = ("--input-shape", "image=1,1,28,28")
        result = cli("compile", DEMO, "-o", "out", "--calibration", "c.npz", *shape)
        refused(result, "calibration", word)
        assert [entry.name for entry in tmp_path.iterdir()] == ["c.npz"]

    def test_a_recipe_and_bits(self, tmp_path):
        both = ("--bits", "4", "--recipe", tmp_path / "r.json")
        refused(cli("compile", DEMO, "-o", tmp_path / "out", *both), "r.json holds the bits")

    def test_output_folders(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        places = [tmp_path / "file", tmp_path / "file" / "out", tmp_path]
        # Not even root makes a folder in /proc.
        for folder in places + [Path("/proc/out")] * Path("/proc/self").exists():
            refused(cli("compile", DEMO, "-o", folder), folder)
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]

    @pytest.mark.parametrize("command", ["inspect", "bench"])
    def test_model_folders(self, tmp_path, command):
        refused(cli(command, tmp_path), tmp_path, "not a compiled model")

    def test_run_arrays(self, tiny_bundle, inputs_npz, tmp_path):
        out = tmp_path / "out.npz"
        for name, content in (("text.npz", b"hello"), ("empty.npz", b""), ("half.npz", None)):
            (tmp_path / name).write_bytes(content or inputs_npz.read_bytes()[:-40])
            refused(cli("run", tiny_bundle, "--inputs", tmp_path / name, "-o", out), name)
        refused(cli("run", tiny_bundle, "--inputs", tmp_path / "no.npz", "-o", out), "no.npz")
        np.save(tmp_path / "one.npy", np.zeros(3))
        refused(cli("run", tiny_bundle, "--inputs", tmp_path / "one.npy", "-o", out), "one.npy")
        np.savez(tmp_path / "o.npz", x=np.array([{}], dtype=object))
        refused(cli("run", tiny_bundle, "--inputs", tmp_path / "o.npz", "-o", out), "o.npz")
        np.savez(tmp_path / "names.npz", y=np.zeros(3))
        refused(cli("run", tiny_bundle, "--inputs", tmp_path / "names.npz", "-o", out), "'y'")
        assert not out.exists()

    def test_run_output(self, tiny_bundle, inputs_npz, tmp_path):
        for out in (tmp_path, tmp_path / "missing" / "out.npz", inputs_npz / "out.npz"):
            refused(cli("run", tiny_bundle, "--inputs", inputs_npz, "-o", out), out)
        assert [entry.name for entry in tmp_path.iterdir()] == ["in.npz"]

    def test_numbers(self, tiny_bundle):
        assert cli("bench", tiny_bundle, "--threads", 0).exit_code == 2
        refused(cli("bench", tiny_bundle, "--threads", 4096), "4096")
        assert cli("bench", tiny_bundle, "--repeats", 0).exit_code == 2

    def test_a_thread_number_that_is_none(self, tiny_bundle, monkeypatch):
        monkeypatch.setenv("TVM_NUM_THREADS", "many")
        refused(cli("bench", tiny_bundle), "TVM_NUM_THREADS", "many")

    def test_a_failure_of_tvmquant_itself_is_exit_code_1(self, tiny_bundle, monkeypatch):
        from tvmquant.errors import TvmQuantError
        from tvmquant.runtime import CompiledModel

        def fail(*_arguments, **_more):
            raise TvmQuantError("the kernel\nlost its way")

        monkeypatch.setattr(CompiledModel, "benchmark", fail)
        result = cli("bench", tiny_bundle)
        assert result.exit_code == 1
        assert result.stderr == "error: the kernel lost its way\n"
