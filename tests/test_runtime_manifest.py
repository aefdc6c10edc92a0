"""Manifests as data."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tvmquant.runtime import LayerInfo, Manifest


def test_json_round_trip(tiny_build):
    manifest = tiny_build[1]
    text = json.dumps(manifest.to_dict())
    assert Manifest.from_dict(json.loads(text)) == manifest


def test_numpy_numbers_and_sets_become_json(tiny_build):
    manifest = replace(tiny_build[1], features=frozenset({"b", "a"}), recipe={"n": np.int64(3)})
    data = json.loads(json.dumps(manifest.to_dict()))
    assert data["features"] == ["a", "b"] and data["recipe"] == {"n": 3}


def test_totals(tiny_build):
    assert tiny_build[1].weight_bytes == 512 and tiny_build[1].macs == 256


@pytest.mark.parametrize("damage", ["inputs", "layers", "precision"])
def test_missing_keys_are_an_error(tiny_build, damage):
    data = tiny_build[1].to_dict()
    del data[damage]
    with pytest.raises((KeyError, TypeError)):
        Manifest.from_dict(data)


@pytest.mark.parametrize(
    ("weight_bits", "activation_bits", "text"),
    [(4, 8, "w4a8"), (None, 8, "a8"), (2, None, "w2"), (None, None, "float")],
)
def test_bits_text(weight_bits, activation_bits, text):
    layer = LayerInfo("n", "conv2d", "k", "s", ((1,),), (1,), weight_bits, activation_bits)
    assert layer.bits == text
