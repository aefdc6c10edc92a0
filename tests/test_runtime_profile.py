"""Profiles: rows follow the manifest; no test looks at a time."""

import json
from dataclasses import replace

import pytest

from tvmquant.errors import InputError, TvmQuantError
from tvmquant.runtime import CompiledModel, LayerInfo
from tvmquant.runtime.profile import _align


def layer(symbol, name="n"):
    return LayerInfo(name, "op", "kernel", symbol, ((1,),), (1,))


def test_every_layer_has_a_row_and_views_cost_nothing(tiny_model, tiny_inputs):
    profile = tiny_model.profile(tiny_inputs, repeats=3)
    names = [row.layer.name for row in profile.rows]
    assert names == ["layer_matmul", "layer_add", "layer_relu", "layer_reshape"]
    assert profile.rows[3].microseconds == 0
    assert sum(row.share for row in profile.rows) == pytest.approx(1)
    assert profile.total_us > 0 and profile.repeats == 3 and profile.threads == 1


def test_table_shows_operator_shapes_bits_kernel_and_bytes(tiny_model):
    text = str(tiny_model.profile(repeats=2))
    for word in ("layer_matmul", "2×16 → 2×8", "a8", "float", "default", "512", "4 layers"):
        assert word in text


def test_to_dict_is_json(tiny_model):
    data = json.loads(json.dumps(tiny_model.profile(repeats=2).to_dict()))
    assert data["layers"][0]["weight_bytes"] == 512 and data["layers"][2]["bits"] == "a8"
    assert data["layers"][1]["gops"] is None


def test_profiling_leaves_the_model_uninstrumented(tiny_model, tiny_inputs):
    want = tiny_model.run(tiny_inputs)["y"].tobytes()
    tiny_model.profile(repeats=2)
    assert tiny_model.run(tiny_inputs)["y"].tobytes() == want


def test_a_manifest_of_another_program_is_refused(tiny_build):
    executable, manifest = tiny_build
    wrong = replace(manifest, layers=(replace(manifest.layers[0], symbol="conv"),))
    with pytest.raises(TvmQuantError, match="calls the kernel 'matmul'"):
        CompiledModel.from_build(executable, wrong).profile(repeats=1)


def test_align_gives_repeated_symbols_to_layers_in_order():
    layers = [layer("a"), layer("view"), layer("a"), layer("b")]
    assert _align([("a", 5), ("a", 7), ("b", 9)], layers) == [5, 0, 7, 9]


def test_align_refuses_a_wrong_order():
    with pytest.raises(TvmQuantError, match="'a'"):
        _align([("b", 1), ("a", 1)], [layer("a"), layer("b")])


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"threads": 0}, {"threads": 4096}])
def test_numbers_out_of_range(tiny_model, wrong):
    with pytest.raises(InputError, match=r"repeats|threads"):
        tiny_model.profile(**wrong)
