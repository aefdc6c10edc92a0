"""The accuracy laboratory on tiny networks: scores, methods, reports, the command."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import tvmquant
from benchmarks.accuracy import methods, pictures, run, sentences
from benchmarks.accuracy.__main__ import _tasks, main
from benchmarks.accuracy.kernel_cache import KernelCache
from benchmarks.accuracy.network import Network, batches
from benchmarks.accuracy.networks import TRAINED
from benchmarks.accuracy.peers import Peer, peers
from benchmarks.accuracy.report import best_peer, cell, in_order, key, targets, to_markdown
from benchmarks.peers.base import Unavailable


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3)) / 5,
        "v": rng.standard_normal((8, 5)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    onnx.save(model, str(path))

    def data(seed, count):
        return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)

    return Network(
        "tiny",
        path,
        "agreement",
        lambda seed: batches("x", data(100 + seed, 20), 10),
        batches("x", data(0, 40), 10),
    )


def make_row(network, section, name, bits, drop, **more):
    score = 90 - drop
    return {
        "network": network, "section": section, "method": name, "adds": "a step", "bits": bits,
        "engine": "compiled", "draws": 2, "scores": [score, score], "drop": drop, "spread": 0.1,
        "seconds": {"quantize": 1.0, "run": 2.0}, "reason": "", **more,
    }  # fmt: skip


ROWS = [
    make_row("resnet20", "recipes", "default", "w8a8", 0.05),
    make_row("resnet20", "recipes", "default", "w4a8", 0.5),
    make_row("resnet20", "per channel", "+ AdaRound", "w4a8", 0.2),
    make_row("resnet20", "peers", "other", "w4a8", 0.3),
    make_row("resnet20", "peers", "absent", "w4a8", 0, scores=[], reason="not installed"),
    make_row("efficientnet_lite0", "recipes", "default", "w8a8", 2.0),
]


def test_scores_of_float_itself_are_full(network):
    assert network.score(network.reference) == 100
    assert replace(network, metric="cosine").score(network.reference) == pytest.approx(100)
    labels = network.reference.argmax(1)
    labels[:10] = (labels[:10] + 1) % 5
    labelled = replace(network, metric="top1", labels=labels)
    assert labelled.float_score == 75


def test_a_method_runs_as_a_compiled_program(network):
    method = methods.Method("per channel", "x", "", methods.made("minmax", "minmax"))
    score, seconds, engine = run.measure_method(network, method, "w8a8", 0)
    assert score >= 90 and engine == "compiled" and set(seconds) == {"quantize", "compile", "run"}


def test_cached_kernels_compute_the_same(network):
    cache, x = KernelCache(), network.test[0]["x"]
    shapes = network.shapes
    for seed in range(2):
        data = network.calibration(seed)
        quantized = tvmquant.quantize(network.path, 4, calibration=data, input_shapes=shapes)
        with cache.active():
            built = cache.built
            ours = tvmquant.compile(quantized)(x)
        np.testing.assert_array_equal(ours, tvmquant.compile(quantized)(x))
    assert cache.reused > 0 and cache.built - built < built


def test_recipes_of_the_table_are_what_their_names_say():
    rows = {row.key: row for row in methods.table()}
    assert len(rows) == len(methods.table())
    assert {row.section for row in rows.values()} <= set(methods.SECTIONS)
    for row in rows.values():
        for bits in row.bits:
            recipe = row.make(bits)
            assert recipe.precision.removesuffix("-dynamic") == bits
    assert rows["per tensor/+ CLE"].make("w4a8").weights.granularity == "per_tensor"
    assert rows["per tensor/+ CLE"].make("w4a8").equalize
    assert rows["per channel/+ AdaRound"].make("w4a4").rounding == "adaround"
    assert rows["activations/aciq"].make("w8a8").activations.estimator == "aciq"
    assert rows["recipes/default"].make("w4a8").rounding != "nearest"


def test_tasks_follow_patterns_bits_and_draws():
    chosen = {"resnet20": {"draws": 5}, "efficientnet_lite0": {"draws": 2}}
    tasks = dict(_tasks(chosen, ["recipes/d*", "peers/*"], []))
    assert tasks["resnet20", "recipes", "default", "w4a4"]["draws"] == (0, 1, 2, 3, 4)
    assert tasks["resnet20", "recipes", "default", "w2a8"]["draws"] == (0, 1, 2, 3, 4)
    # Without calibration data all draws are the same.
    assert tasks["resnet20", "recipes", "data_free", "w4a4"]["draws"] == (0,)
    assert tasks["efficientnet_lite0", "recipes", "default", "w4a8"]["draws"] == (0, 1)
    assert ("efficientnet_lite0", "recipes", "default", "w4a4") not in tasks
    assert any(where[1] == "peers" for where in tasks)
    only = _tasks(chosen, ["per tensor/min-max"], ["w8a8"])
    assert [where for where, _ in only] == [("resnet20", "per tensor", "min-max", "w8a8")]


def test_a_row_that_fails_says_why(network, monkeypatch, tmp_path):
    def broken(*_args):
        raise Unavailable("no such tool")

    peer = Peer("broken", "", "none", broken)
    monkeypatch.setattr(run, "_rows", lambda: {peer.key: peer})
    monkeypatch.setattr(run, "_network", lambda *_args: network)
    task = run.Task("tiny", peer.key, "w8a8", (0,), (), (tmp_path,) * 4, True)
    assert run.measure(task)["reason"] == "no such tool" and run.measure(task)["drop"] is None
    working = replace(peer, build=lambda n, *_args: lambda inputs: [np.eye(10, 5)])
    monkeypatch.setattr(run, "_rows", lambda: {peer.key: working})
    row = run.measure(replace(task, draws=(0, 1)))
    assert row["draws"] == 2 and row["spread"] == 0 and row["reason"] == ""
    # More draws join those that were measured earlier.
    more = run.measure(replace(task, draws=(2,), scores=(row["scores"][0] + 6, row["scores"][1])))
    assert more["draws"] == 3 and more["drop"] == pytest.approx(row["drop"] - 2)
    assert more["spread"] == pytest.approx(12**0.5)


def test_targets_compare_with_limits_and_with_the_best_other_tool():
    found = {(row["network"], row["bits"]): row for row in targets(ROWS)}
    assert len(found) == 3
    assert found["resnet20", "w8a8"]["met"] and found["resnet20", "w8a8"]["peer"] is None
    four = found["resnet20", "w4a8"]
    assert not four["met"] and four["peer"] == "other" and not four["peer_met"]
    assert four["best"] == "per channel: + AdaRound"
    assert found["efficientnet_lite0", "w8a8"]["measured"] == 98
    assert best_peer(ROWS, "resnet20", "w8a8") is None


def test_markdown_starts_with_the_targets():
    networks = {"resnet20": {"about": "pictures", "float": 94.4, "metric": "top1"}}
    text = to_markdown({"date": "d", "versions": {}, "networks": networks, "rows": ROWS})
    assert text.index("## Targets") < text.index("## resnet20")
    assert "| resnet20 | w4a8 | drop ≤ 0.3 | 0.50 ± 0.10 (2) | **no** | other |" in text
    assert "– (not installed)" in text
    assert cell(ROWS[0]) == "0.05 ± 0.10 (2)" and cell(None) == ""
    assert in_order(ROWS, [key(ROWS[2])])[0] is ROWS[2]


def test_words_become_the_longest_known_pieces():
    known = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "quant": 4, "##ize": 5, "!": 6}
    ids = sentences.encode("Quantize! zebra", known)
    assert ids.shape == (32,) and list(ids[:7]) == [2, 4, 5, 6, 1, 3, 0]


def test_lines_differ_by_seed_only():
    pytest.importorskip("PIL")
    one, again, other = (pictures.lines(2, seed)[1]["x"] for seed in (0, 0, 1))
    assert one.shape == (1, 3, 48, 320) and one.dtype == np.float32 and abs(one).max() <= 1
    assert (one == again).all() and (one != other).any()


def test_crops_are_224_square(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    image.fromarray(pixels).save(tmp_path / "a.png")
    (crop,) = pictures.crops([tmp_path / "a.png"], 1, 0)
    assert crop["image"].shape == (1, 3, 224, 224) and abs(crop["image"]).max() <= 1.01


def test_names_of_other_tools_are_unique():
    names = [peer.key for peer in peers()]
    assert len(set(names)) == len(names)


def test_command_measures_reports_and_goes_on_where_it_stopped(tmp_path):
    if not (TRAINED / "resnet20_fashion.onnx").exists():
        pytest.skip("needs the trained network")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (100, 28, 28), dtype=np.uint8)
    data = {"x_train": x, "y_train": np.zeros(100), "x_test": x, "y_test": np.zeros(100)}
    np.savez(tmp_path / "data.npz", **data)
    args = ["--quick", "--network", "resnet20", "--methods", "recipes/fast", "--bits", "w8a8"]
    args += ["--data", str(tmp_path / "data.npz"), "-o", str(tmp_path / "out")]
    first = CliRunner().invoke(main, args)
    assert first.exit_code == 0, first.output
    assert "1 of 1 rows" in first.output
    report = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    (row,) = report["rows"]
    assert row["engine"] == "compiled" and row["draws"] == 1 and row["bits"] == "w8a8"
    assert "## resnet20" in (tmp_path / "out" / "accuracy.md").read_text()
    assert "0 of 0 rows" in CliRunner().invoke(main, args).output
