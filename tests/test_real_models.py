"""Trained networks on recorded inputs: skipped without the shared models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import photos
import pytest

import tvmquant
from tvmquant.interpreter import Interpreter
from tvmquant.passes.pipeline import to_integers

MODELS = photos.SHARED / "models"
CACHE = Path(os.environ.get("TVMQUANT_TEST_CACHE", "~/.cache/tvmquant-tests")).expanduser()
EFFICIENTNET = MODELS / "efficientnet_lite0.onnx"
FETCHED = [
    "ppocr_cls_mobilev3",
    "ppocrv4_det",
    "ppocrv4_rec",
    "minilm_l3_paraphrase",
    "deepcut_thai_conv1d",
    "mtcnn_pnet",
    "mtcnn_rnet",
    "mtcnn_onet",
    "dtln_2_unrolled_lstm",
    "silero_vad_ifless",
]
RECURRENT = {"dtln_1_lstm": "LSTM", "nsnet2_gru": "GRU"}

pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason="needs ../shared/models")
slow = pytest.mark.slow


def fetched(name: str) -> Path:
    path = CACHE / f"{name}.onnx"
    if not path.exists():
        command = [sys.executable, str(MODELS / "fetch.py"), "--out", str(CACHE), name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode or not path.exists():
            pytest.skip(f"{name} could not be fetched: {done.stderr.strip()[-200:]}")
    return path


def recorded(name: str) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    data = np.load(MODELS / "inputs" / f"{name}.npz")
    inputs = {key[3:]: data[key] for key in data.files if key.startswith("in:")}
    count = sum(key.startswith("out:") for key in data.files)
    return inputs, [data[f"out:{i}"] for i in range(count)]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (v.ravel().astype(np.float64) for v in (a, b))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=slow) if n == "ppocrv4_rec" else n for n in FETCHED]
)
def test_w8a8_is_close_to_float(name):
    inputs, expected = recorded(name)
    model = tvmquant.compile(fetched(name), calibration=[inputs])
    for info, wanted, got in zip(model.outputs, expected, model.run(inputs).values()):
        assert got.shape == wanted.shape
        assert cosine(got, wanted) >= 0.95, info.name


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_networks_are_refused_by_name(name):
    with pytest.raises(tvmquant.UnsupportedOperatorError, match=f"{RECURRENT[name]}.*later"):
        tvmquant.compile(fetched(name), calibration=[recorded(name)[0]])


@pytest.mark.parametrize("bits", [4, *(pytest.param(b, marks=slow) for b in (8, "w4a8", 2, 1))])
def test_efficientnet_equals_the_interpreter_bit_for_bit(bits):
    inputs, _ = recorded("efficientnet_lite0")
    quantized = tvmquant.quantize(EFFICIENTNET, bits, calibration=[inputs])
    integers = to_integers(quantized.mod, quantized.recipe)
    image = inputs["image"]
    (expected,) = Interpreter(integers).run([image])
    model = tvmquant.compile(quantized)
    np.testing.assert_array_equal(model(image), expected)
    assert all(layer.weight_bits for layer in model.layers if layer.macs)


@slow
@pytest.mark.parametrize("bits, limit", [(8, 6_000_000), (4, 4_000_000)])
def test_efficientnet_library_is_packed(bits, limit, tmp_path):
    inputs, _ = recorded("efficientnet_lite0")
    model = tvmquant.compile(EFFICIENTNET, bits=bits, calibration=[inputs])
    folder = model.save(tmp_path / "model")
    assert (folder / "model.so").stat().st_size <= limit


def test_efficientnet_keeps_its_accuracy():
    pytest.importorskip("PIL")
    import onnxruntime

    images, labels = photos.labelled()
    session = onnxruntime.InferenceSession(str(EFFICIENTNET), providers=["CPUExecutionProvider"])
    logits = [session.run(None, {"image": image})[0] for image in images]
    model = tvmquant.compile(EFFICIENTNET, calibration=photos.calibration_crops(24))
    ours = [model(image) for image in images]

    def top1(outputs: list[np.ndarray]) -> int:
        return sum(int(out.argmax()) == label for out, label in zip(outputs, labels))

    assert top1(ours) >= top1(logits) - 1
    assert np.mean([cosine(a, b) for a, b in zip(ours, logits)]) >= 0.98
