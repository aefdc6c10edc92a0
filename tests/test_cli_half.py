"""``tvmquant compile --recipe float16`` and ``--bits 16``."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from frontend_tools import make_model, node

from tvmquant.cli import main


@pytest.mark.parametrize("option", [("--recipe", "float16"), ("--bits", "16")])
def test_half_the_weights(tmp_path, option):
    weight = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)
    x = np.zeros((2, 256), np.float32)
    model = make_model([node("MatMul", "x w", name="fc")], {"x": x}, {"w": weight})
    onnx.save(model, tmp_path / "m.onnx")
    arguments = ["compile", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m"), *option]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "w16a16 for host" in result.stdout
    assert "noise" not in result.stderr
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "m"), "--json"])
    (layer,) = (layer for layer in json.loads(result.stdout)["layers"] if layer["macs"])
    assert (layer["weight_bits"], layer["activation_bits"]) == (16, 32)
    assert layer["weight_bytes"] < 0.55 * weight.nbytes
