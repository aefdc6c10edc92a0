"""``tvmquant compile --recipe dynamic`` and what comes out."""

import json

import numpy as np
import onnx
from click.testing import CliRunner
from frontend_tools import make_model, node, run_onnxruntime

from tvmquant.cli import main


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_no_calibration_data_is_needed(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 256)).astype(np.float32)
    weight = rng.standard_normal((256, 128)).astype(np.float32)
    model = make_model([node("MatMul", "x w", name="fc")], {"x": x}, {"w": weight})
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "in.npz", x=x)
    result = cli("compile", tmp_path / "m.onnx", "-o", tmp_path / "m", "--recipe", "dynamic")
    assert result.exit_code == 0, result.output
    assert "w8a8-dynamic for host" in result.stdout
    assert "noise" not in result.stderr
    result = cli("run", tmp_path / "m", "--inputs", tmp_path / "in.npz", "-o", tmp_path / "o.npz")
    assert result.exit_code == 0, result.output
    (want,) = run_onnxruntime(model, {"x": x})
    error = np.load(tmp_path / "o.npz")["y"] - want
    assert np.linalg.norm(error) < 0.02 * np.linalg.norm(want)
    result = cli("inspect", tmp_path / "m", "--json")
    assert result.exit_code == 0, result.output
    (layer,) = (layer for layer in json.loads(result.stdout)["layers"] if layer["macs"])
    assert (layer["name"], layer["operator"]) == ("fc", "matmul")
    assert (layer["weight_bits"], layer["activation_bits"]) == (8, 8)
    assert "w8a8-dynamic" in cli("inspect", tmp_path / "m").stdout


def test_one_bit_weights_are_refused(tmp_path):
    arguments = ("--recipe", "dynamic", "--bits", "1")
    result = cli("compile", tmp_path / "m.onnx", "-o", tmp_path / "m", *arguments)
    assert result.exit_code == 2
    assert "needs weights of 8, 4 or 2 bits" in result.stderr
