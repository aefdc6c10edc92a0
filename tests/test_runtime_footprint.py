"""Load time and memory of a model, from its manifest and from what was measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
from networks import Net

import tvmquant
from tvmquant.runtime import CompiledModel, Footprint


@pytest.fixture(scope="module")
def model():
    net = Net()
    x = net.input(1, 32, 20, 20)
    for name in "abc":
        x = net.op("Relu", net.conv(x, 32, 32, name=name))
    sample = np.random.default_rng(0).normal(size=(4, 1, 32, 20, 20)).astype(np.float32)
    return tvmquant.compile(net.model(x), calibration=list(sample), database=False)


def test_memory_is_that_of_the_program(model):
    memory = model.benchmark(warmup=0, repeats=1).footprint
    expanded = sum(tensor.numpy().nbytes for tensor in model._program._expanded)
    assert memory.expanded_bytes == expanded
    assert memory.constant_bytes == sum(layer.weight_bytes for layer in model.layers)
    # Two uint8 activations are alive at a time, and the float output is larger than all.
    activation = 32 * 20 * 20
    assert 6 * activation <= memory.workspace_bytes <= 12 * activation
    assert memory.resident_bytes == (
        memory.constant_bytes + memory.expanded_bytes + memory.workspace_bytes
    )
    assert memory.peak_memory_mb > 10


def test_loading_is_measured_and_expanding_is_part_of_it(model, tmp_path):
    loaded = tvmquant.load(model.save(tmp_path / "bundle"))
    for result in (loaded.benchmark(warmup=0, repeats=1), loaded.profile(repeats=1)):
        memory = result.footprint
        assert memory.load_seconds > memory.expand_seconds >= 0
        assert memory.workspace_bytes == loaded.manifest.workspace_bytes > 0
        data = json.loads(json.dumps(result.to_dict()))
        assert data["footprint"]["constant_bytes"] == memory.constant_bytes
        assert "loaded in" in str(result) and "expanded constants" in str(result)


def test_nothing_is_said_about_loading_where_it_was_not_measured():
    memory = Footprint(None, None, 1_500_000, 0, 250_000)
    assert str(memory) == "constants 1.50, expanded constants 0.00, activations 0.25 MB"


def test_notes_of_layers_are_footnotes_of_a_profile(tiny_build):
    executable, manifest = tiny_build
    note = "fewer bits do not pay here: 8-bit kernel"
    layers = [replace(layer, note=note) for layer in manifest.layers[:2]]
    manifest = replace(manifest, layers=(*layers, *manifest.layers[2:]))
    profile = CompiledModel.from_build(executable, manifest).profile(repeats=1)
    text = str(profile)
    assert f"[1] {note} (2 layers)" in text and text.count("float [1]") == 2
    notes = [layer["note"] for layer in profile.to_dict()["layers"]]
    assert notes == [note, note, "", ""]
