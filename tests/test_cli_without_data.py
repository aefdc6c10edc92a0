"""``tvmquant compile`` with precisions that need no calibration data, and what comes out."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from frontend_tools import make_model, node, run_onnxruntime

from tvmquant.cli import main


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("options", "precision", "operator", "bits", "tolerance"),
    [
        (("--recipe", "dynamic"), "w8a8-dynamic", "matmul", (8, 8), 0.02),
        (("--bits", "w4a16"), "w4a16", "matmul_weight_only", (4, 32), 0.15),
    ],
    ids=["dynamic", "weight only"],
)
def test_no_calibration_data_is_needed(tmp_path, options, precision, operator, bits, tolerance):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 256)).astype(np.float32)
    weight = rng.standard_normal((256, 128)).astype(np.float32)
    model = make_model([node("MatMul", "x w", name="fc")], {"x": x}, {"w": weight})
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "in.npz", x=x)
    result = cli("compile", tmp_path / "m.onnx", "-o", tmp_path / "m", *options)
    assert result.exit_code == 0, result.output
    assert f"{precision} for host" in result.stdout
    assert "noise" not in result.stderr
    result = cli("run", tmp_path / "m", "--inputs", tmp_path / "in.npz", "-o", tmp_path / "o.npz")
    assert result.exit_code == 0, result.output
    (want,) = run_onnxruntime(model, {"x": x})
    error = np.load(tmp_path / "o.npz")["y"] - want
    assert np.linalg.norm(error) < tolerance * np.linalg.norm(want)
    result = cli("inspect", tmp_path / "m", "--json")
    assert result.exit_code == 0, result.output
    (layer,) = (layer for layer in json.loads(result.stdout)["layers"] if layer["macs"])
    assert (layer["name"], layer["operator"]) == ("fc", operator)
    assert (layer["weight_bits"], layer["activation_bits"]) == bits
    # Scales and a bias come on top of the weights.
    assert layer["weight_bytes"] < weight.size * bits[0] / 8 * 1.3
    assert precision in cli("inspect", tmp_path / "m").stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--recipe", "dynamic", "--bits", "1"), "needs weights of 8, 4 or 2 bits"),
        (("--bits", "w1a16"), "unknown precision 'w1a16'"),
    ],
    ids=["dynamic", "weight only"],
)
def test_one_bit_weights_are_refused(tmp_path, options, message):
    result = cli("compile", tmp_path / "m.onnx", "-o", tmp_path / "m", *options)
    assert result.exit_code == 2
    assert message in result.stderr
