"""The layers that ship tuned, and the script that makes their databases."""

import itertools
import warnings

import pytest
from click.testing import CliRunner
from tuning_tools import HOST, FakeBuilders

from tvmquant.errors import InputError
from tvmquant.schedules.registry import resolve_rule
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.space import configured
from tvmquant.tuning import Database, ship
from tvmquant.tuning import model as tuning_model
from tvmquant.tuning.active import shipped_path
from tvmquant.tuning.candidates import candidates
from tvmquant.tuning.common_layers import NETWORKS, PRECISIONS, common_layers
from tvmquant.tuning.record import instruction_set
from tvmquant.tuning.trials import LayerTuning, TuneReport


# Millions of multiply-accumulates, from the papers and torchvision.
@pytest.mark.parametrize(
    ("network", "macs", "convolutions"),
    [
        ("resnet18", 1814, 20),
        ("resnet50", 4089, 53),
        ("mobilenet_v2", 301, 52),
        ("efficientnet_lite0", 385, 49),
    ],
)
def test_the_networks_are_what_their_names_say(network, macs, convolutions):
    *layers, last = NETWORKS[network]()
    assert len(layers) == convolutions and last.op == "matmul"
    assert round(sum(layer.macs for layer in (*layers, last)) / 1e6) == macs
    # Each layer's input is the output of one before it (pooling aside).
    for previous, layer in itertools.pairwise(layers):
        before = [p.out_shape for p in layers[: layers.index(layer)]] + [(1, 56, 56, 64)]
        assert layer.x_shape in before, (previous, layer)


def test_first_and_last_layers_stay_at_8_bits():
    found = common_layers(("resnet18",), ("w2a2",))
    assert len(found) == len(set(found)) == 12
    assert [(w.w_bits, w.x_bits) for w in found] == [(8, 8), *[(2, 2)] * 10, (8, 8)]
    everything = common_layers()
    assert {f"w{w.w_bits}a{w.x_bits}" for w in everything} == set(PRECISIONS)


def test_the_script_writes_the_best_and_the_default(monkeypatch, tmp_path):
    class FakePool(FakeBuilders):
        def __init__(self, *_):
            super().__init__()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(tuning_model, "Pool", FakePool)
    monkeypatch.setattr("tuning_tools.fake_seconds", lambda config: 1e-3 / len(str(config)))
    output, work = tmp_path / "new" / "x.jsonl", tmp_path / "work.jsonl"
    arguments = ["--network", "resnet18", "--precision", "w4a4", "--trials", "5"]
    arguments += ["--work", str(work), "--output", str(output)]
    result = CliRunner().invoke(ship.main, arguments)
    assert result.exit_code == 0, result.output
    assert "12 distinct layers" in result.stdout
    assert "default over tuned: median" in result.stdout and "of 12 layers" in result.stdout
    assert [path.name for path in output.parent.iterdir()] == ["x.jsonl"]
    everything, shipped = Database(work), Database(output)
    workloads = common_layers(("resnet18",), ("w4a4",))
    assert len(everything) > len(shipped) <= 2 * len(workloads)
    for workload in workloads:
        assert shipped.best(workload, HOST).key == everything.best(workload, HOST).key
        keys = {record.key for record in shipped.measured(workload, HOST)}
        assert candidates(workload, HOST)[0].key in keys
        best = KernelTable(HOST, database=shipped)[workload]
        assert best == KernelTable(HOST, database=everything)[workload]
    # The work file is gone on from.
    again = CliRunner().invoke(ship.main, arguments)
    assert "0 candidates measured" in again.stdout


def test_lesser_instruction_sets():
    assert ship.device_with("host") == HOST
    assert instruction_set(ship.device_with(HOST.isa)) == HOST.isa
    if "avx2" in HOST.features:
        lesser = ship.device_with("avx2")
        assert lesser.isa == "avx2" and not any(f.startswith("avx512") for f in lesser.features)
    with pytest.raises(InputError, match="cannot tune for neon"):
        ship.device_with("neon")


def test_variants_only_where_the_proof_changes_the_kernel():
    layers = common_layers(("mobilenet_v2",), ("w8a8",))
    assert ship.variants(layers, "avx512_vnni") == layers
    more = ship.variants(layers, "avx2")
    assert {w.no_saturation for w in more} == {False, True}
    assert not any(w.no_saturation and w.op.startswith("depthwise") for w in more)


SHIPPED = sorted(shipped_path("x").parent.glob("*.jsonl"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_ships_is_up_to_date(path):
    """If this fails, kernels changed their sizes: run ``python -m tvmquant.tuning.ship``."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        database = Database(path)
    assert {record.processor.isa for record in database.records} == {path.stem}
    try:
        device = ship.device_with(path.stem)
    except InputError:
        pytest.skip("another processor")
    for workload in dict.fromkeys(record.workload for record in database.records):
        choice = database.ranked(workload, device)[0]
        rule = resolve_rule(workload.op, choice.rule)
        configured(rule(workload, device), choice.config)


def test_the_verdict_names_the_worst_layers_and_what_is_missing():
    layer = common_layers(("resnet18",), ("w4a4",))[1]
    rules = (LayerTuning(layer, 3e-3, 1e-3, "rules.winograd"), LayerTuning(layer, None, None, ""))
    lines = list(ship.verdict(TuneReport(rules, 2, 1)))
    assert lines[0] == "default over tuned: median 3.000 of 1 layers, above 1.5: the models are off"
    assert lines[1].startswith("  3.00x conv2d") and lines[1].endswith("best is winograd")
    assert lines[2].startswith("1 layers were not measured")
    fine = TuneReport((LayerTuning(layer, 1.2e-3, 1e-3, "dense"),), 1, 0)
    assert "median 1.200 of 1 layers, as it must be" in next(ship.verdict(fine))
