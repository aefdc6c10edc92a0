"""The benchmark's options, inputs and reports; nothing is timed."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from benchmarks import layers, models, peaks, peer_layers
from benchmarks.case import load_case
from benchmarks.compare import compare, cosine
from benchmarks.layer_cases import LAYERS, Layer
from benchmarks.layer_data import LayerData
from benchmarks.layer_report import to_markdown as layers_markdown
from benchmarks.measure import blame
from benchmarks.ours_layer import OurLayer
from benchmarks.ours_weight_only import OurWeightOnlyLayer
from benchmarks.peers.base import Unavailable, need
from benchmarks.report import best_int8_peer, headline, model_table, speedup, to_markdown
from benchmarks.timing import interleave
from tvmquant.targets import get_device


def times(one, two):
    def spread(ms):
        return {"median": ms, "p10": 0.9 * ms, "p90": 1.1 * ms}

    return {
        "1": {"cpu": spread(one), "wall": spread(3 * one)},
        "2": {"cpu": spread(9 * two), "wall": spread(two)},
    }


def row(engine, precision, one=None, two=None, **more):
    name = f"{engine} {precision}"
    measured = {} if one is None else times(one, two)
    return {"name": name, "engine": engine, "precision": precision, "times": measured, **more}


PROFILE = {"layers_us": 2000.0, "linear_us": 1500.0, "linear_gops": 321.0, "slow": [{"us": 500.0}]}
MODEL = {
    "name": "net",
    "notes": ["weights are random"],
    "threads": [1, 2],
    "rows": [
        row("onnxruntime", "int8", 8.0, 6.0, cosine=0.99),
        row("openvino", "int8", 10.0, 5.0, cosine=0.98),
        row("onnxruntime", "fp32", 2.0, 1.0, cosine=1.0),
        row("tvmquant", "w8a8", 4.0, 2.5, cosine=0.97, top1=0.75, profile=PROFILE),
        row("mnn", "fp32", reason="not installed: pip install MNN"),
    ],
}
REPORT = {
    "date": "2026-01-01",
    "machine": {
        "cpu": "a processor",
        "isa": "avx2",
        "features": ["avx2"],
        "physical_cores": 2,
        "memory_gb": 8,
        "load_average": [0.5, 0.5, 0.5],
        "system": "Linux",
    },
    "versions": {"tvmquant": "0"},
    "settings": {"rounds": 5, "threads": 1},
    "peaks": {"pmaddubsw+pmaddwd ymm": 200.0, "fp32 FMA ymm": 100.0},
    "models": [MODEL],
}


def test_ratios_use_cpu_time_of_one_thread_and_wall_time_of_several():
    assert best_int8_peer(MODEL, 1)["engine"] == "onnxruntime"
    assert best_int8_peer(MODEL, 2)["engine"] == "openvino"
    ours = MODEL["rows"][3]
    assert speedup(MODEL, ours, 1) == 2.0 and speedup(MODEL, ours, 2) == 2.0
    assert speedup(MODEL, MODEL["rows"][4], 1) is None
    alone = {**MODEL, "rows": [ours]}
    assert best_int8_peer(alone, 1) is None and speedup(alone, ours, 1) is None


def test_markdown_report():
    text = to_markdown(json.loads(json.dumps(REPORT)))
    assert "| net | 1 | onnxruntime int8 8.00 ms | 2.00 |" in text
    assert headline(REPORT)[-1] == "| net | 2 | openvino int8 5.00 ms | 2.00 |"
    assert "- mnn fp32: not installed: pip install MNN" in text
    assert "weights are random." in text and "75.0%" in text
    assert "25% of it outside convolutions and matmuls, which run at 321 GOP/s" in text
    rows = [line for line in text.splitlines() if line.startswith("| tvmquant w8a8")]
    assert rows[0].split(" | ")[1:5] == ["4.00", "3.60–4.40", "12.00", "2.00"]
    assert "4.80" in rows[0], "the gain of two threads"


def test_terminal_table_lists_absent_engines():
    table = model_table(MODEL)
    assert table.row_count == 4 and "mnn fp32: not installed" in table.caption


def test_report_without_models_or_times():
    empty = {"name": "net", "notes": ["it ended"], "threads": [], "rows": []}
    assert "it ended." in to_markdown({**REPORT, "models": [empty]})
    assert "# Models" in to_markdown({**REPORT, "models": []})


def test_layer_report():
    def measured(engine, name, us, **more):
        return {"engine": engine, "name": name, "us": us, "gops": 100 / us, **more}

    rows = [
        measured("tvmquant", "w8a8", 1.0, exact=True),
        measured("tvmquant", "w1a1", 0.5, exact=False),
        measured("onnxruntime", "onnxruntime QLinearConv", 2.0),
        {"engine": "openvino", "name": "openvino int8", "reason": "not installed"},
    ]
    layer = {"name": "3x3", "group": "3x3", "macs": 1, "rows": rows}
    text = layers_markdown({**REPORT, "layers": [layer], "call_us": {"tvmquant": 1.5}})
    assert "| 3x3 | 100 (50%) | WRONG | 50 (25%) | – | 2.00 |" in text
    assert "- openvino int8: not installed (3x3)" in text and "tvmquant 1.5 µs" in text


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["missing.onnx"], "no file missing.onnx"),
        (["resnet18", "--bits", "3"], "unknown precision '3'"),
        (["resnet18", "--threads", "0"], "no list of numbers"),
        (["resnet18", "--engines", "tflite"], "unknown engine tflite"),
        (["resnet18", "--rounds", "0"], "--rounds"),
        ([], "Missing argument"),
    ],
)
def test_wrong_options_of_models(arguments, words):
    result = CliRunner().invoke(models.main, arguments)
    assert result.exit_code == 2 and words in result.output


def test_wrong_options_of_layers():
    result = CliRunner().invoke(layers.main, ["--only", "nothing"])
    assert result.exit_code == 2 and "groups: 3x3, first, 1x1, depthwise, matmul" in result.output


def make_model(path, batch, opset=11):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_case_takes_shapes_from_recorded_inputs(tmp_path):
    np.savez(tmp_path / "net.npz", **{"in:x": np.ones((2, 3), np.float32), "out:0": np.ones(1)})
    path = make_model(tmp_path / "net.onnx", "batch")
    case = load_case(path, tmp_path / "work", tmp_path / "net.npz", None, ["a note"])
    fixed = onnx.load(str(case.path))
    dims = fixed.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [2, 3] and fixed.opset_import[0].version >= 13
    assert len(case.samples) == 1 and case.inputs["x"].shape == (2, 3)
    assert case.notes[0] == "a note" and not case.attention


def test_case_cuts_arrays_into_samples_and_reads_labels(tmp_path):
    np.savez(tmp_path / "c.npz", x=np.arange(12, dtype=np.float32).reshape(4, 3))
    np.savez(tmp_path / "d.npz", x=np.ones((5, 3), np.float32), y=np.arange(5))
    path = make_model(tmp_path / "net.onnx", 1, opset=17)
    case = load_case(path, tmp_path / "w", tmp_path / "c.npz", tmp_path / "d.npz", [])
    assert [s["x"].shape for s in case.samples] == [(1, 3)] * 4
    assert len(case.test) == 5 and case.test[0]["x"].shape == (1, 3) and case.labels[4] == 4


def test_case_without_data(tmp_path):
    case = load_case(make_model(tmp_path / "a.onnx", 1), tmp_path / "w", None, None, [])
    assert "noise" in case.notes[0] and case.inputs["x"].dtype == np.float32
    with pytest.raises(SystemExit, match="give --calibration"):
        load_case(make_model(tmp_path / "b.onnx", "n"), tmp_path / "w", None, None, [])


def test_accuracy(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.eye(3, dtype=np.float32), y=np.array([0, 1, 0]))
    path = make_model(tmp_path / "net.onnx", 1)
    case = load_case(path, tmp_path / "w", None, tmp_path / "d.npz", [])
    reference = [[sample["x"]] for sample in case.test]
    result = compare(lambda inputs: [2 * inputs["x"]], case, reference)
    assert result["cosine"] == pytest.approx(1) and result["top1"] == pytest.approx(2 / 3)
    with pytest.raises(Unavailable, match="values instead of 3"):
        compare(lambda inputs: [np.ones(2)], case, reference)
    with pytest.raises(Unavailable, match="not finite"):
        compare(lambda inputs: [np.full(3, np.nan)], case, reference)
    assert cosine(np.array([1.0, 0]), np.array([0.0, 1])) == 0 == cosine(np.ones(2), np.zeros(2))


def test_every_contender_has_its_turns():
    calls = []
    measured = interleave({"a": lambda: calls.append("a"), "own": lambda: 7.0}, 3, inner=2)
    assert calls == ["a"] * 9 and measured["own"].cpu.median == measured["own"].wall.p90 == 7.0


def test_what_an_engine_raises_becomes_its_reason():
    row = {}
    with blame(row):
        need("no_such_engine", "no-such-engine")
    assert row == {"reason": "not installed: pip install no-such-engine"}
    with blame(row):
        raise ValueError("first\nsecond")
    assert row["reason"] == "ValueError: first"


def test_layers_have_the_shapes_of_their_names():
    by_name = {layer.name: layer for layer in LAYERS}
    assert len(by_name) == len(LAYERS)
    layer = by_name["3x3 64->64 @56"]
    assert layer.w_shape == (64, 3, 3, 64) and layer.macs == 56 * 56 * 64 * 64 * 9
    layer = by_name["dw 5x5 144 @56 /2"]
    assert layer.w_shape == (144, 5, 5, 1) and layer.macs == 28 * 28 * 144 * 25
    layer = by_name["matmul 32 x 1280 -> 1000"]
    assert layer.x_shape == (32, 1280) and layer.macs == 32 * 1280 * 1000


@pytest.mark.parametrize(
    "layer",
    [
        Layer("c", "c", 8, 8, 12, 16, 3, 2),
        Layer("d", "d", 6, 6, 16, 16, 3, 1, 16),
        Layer("m", "m", 3, 0, 32, 24),
    ],
    ids=["conv", "depthwise", "matmul"],
)
def test_our_layer_is_exact_and_the_peers_graphs_mean_the_same(layer):
    for bits in (8, 4):
        ours = OurLayer(LayerData(layer, bits, bits))
        assert ours.exact and ours.label
    data = LayerData(layer, 8, 8)
    expected = OurLayer(data).out.numpy().astype(int)
    if layer.is_matmul:
        sums = peer_layers.ort_session(peer_layers.matmul_integer, data, 1).run()[0]
        np.testing.assert_array_equal(sums, data.x.astype(int) @ data.w.astype(int).T)
        nbits = peer_layers.ort_session(peer_layers.matmul_nbits(4), data, 1).run()[0]
        assert nbits.shape == expected.shape
        floats = peer_layers.ort_session(peer_layers.float_layer, data, 1).run()[0]
        np.testing.assert_allclose(floats, sums, rtol=1e-3)
    else:
        got = peer_layers.ort_session(peer_layers.qlinear_conv, data, 1).run()[0].astype(int)
        assert np.abs(got - expected).max() <= 1 and expected.std() > 5


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_our_weight_only_layer_is_as_close_as_float32(bits):
    ours = OurWeightOnlyLayer(LayerData(Layer("m", "m", 3, 0, 96, 24), 16, bits))
    assert ours.exact and ours.label
    assert ours.out.numpy().std() > 0.01


def test_weight_only_precisions_are_for_matrix_products():
    conv = Layer("c", "c", 8, 8, 12, 16)
    matmul = Layer("m", "m", 3, 0, 96, 24)
    assert layers._contenders(conv, ["w4a16"], 1, False) == []
    ((engine, name, _),) = layers._contenders(matmul, ["w4a16"], 1, False)
    assert (engine, name) == ("tvmquant", "w4a16")


@pytest.mark.parametrize("instruction", peaks.INSTRUCTIONS, ids=lambda i: i.name.replace(" ", "_"))
def test_peak_loops_multiply_and_accumulate(instruction):
    if instruction.feature not in get_device().features:
        pytest.skip(f"this processor has no {instruction.feature}")
    outputs = peaks.run_loop(instruction, (3, 3))
    products = 4 // np.dtype(instruction.dtypes[0]).itemsize
    assert (outputs == peaks.TURNS * products).all()
    assert len(outputs) * products == 9 * instruction.macs
