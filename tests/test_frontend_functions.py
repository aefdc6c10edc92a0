"""tvmquant.frontend.functions against ONNX Runtime or ONNX's own reference."""

import numpy as np
import pytest
from frontend_tools import make_model, node
from onnx.reference import ReferenceEvaluator

from tvmquant.errors import UnsupportedOperatorError
from tvmquant.frontend import load_model
from tvmquant.interpreter import Interpreter

RNG = np.random.default_rng(0)


def rand(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def check(model, feeds):
    got = Interpreter(load_model(model).mod).run(list(feeds.values()))
    for a, b in zip(got, ReferenceEvaluator(model).run(None, feeds), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind,attributes", [("Celu", {"alpha": 0.7}), ("Celu", {}), ("Swish", {})])
def test_activations(kind, attributes):
    feeds = {"x": rand(3, 5)}
    check(make_model([node(kind, "x", **attributes)], feeds, opset=24), feeds)


@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1, "softcap": 2.0, "scale": 0.5}])
def test_attention(attributes):
    feeds = {"q": rand(2, 6, 24), "k": rand(2, 5, 12), "v": rand(2, 5, 12)}
    heads = {"q_num_heads": 4, "kv_num_heads": 2}
    check(make_model([node("Attention", "q k v", **heads, **attributes)], feeds, opset=23), feeds)


def test_attention_with_mask_and_cache():
    feeds = {"q": rand(1, 2, 3, 8), "k": rand(1, 2, 3, 8), "v": rand(1, 2, 3, 8)}
    feeds |= {"m": rand(3, 7), "pk": rand(1, 2, 4, 8), "pv": rand(1, 2, 4, 8)}
    layer = node("Attention", "q k v m pk pv", "y nk nv")
    check(make_model([layer], feeds, outputs=("y", "nk", "nv"), opset=23), feeds)


def test_rotary_embedding():
    feeds = {"x": rand(2, 4, 6, 8)}
    constants = {"c": rand(2, 6, 4), "s": rand(2, 6, 4)}
    check(make_model([node("RotaryEmbedding", "x c s")], feeds, constants, opset=23), feeds)


@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_rms_normalization(axis):
    feeds = {"x": rand(2, 3, 4)}
    constants = {"w": rand(*(2, 3, 4)[axis:])}
    check(
        make_model([node("RMSNormalization", "x w", axis=axis)], feeds, constants, opset=23), feeds
    )


def test_names_start_with_the_node():
    model = make_model([node("Celu", "x", name="act")], {"x": rand(3)}, opset=13)
    variables = [
        b.var.name for block in load_model(model).mod["main"].body.blocks for b in block.bindings
    ]
    assert any(name.startswith("act/") for name in variables)


def test_an_opset_without_the_operator_is_refused():
    model = make_model([node("Swish", "x", name="act")], {"x": rand(3)}, opset=18)
    with pytest.raises(UnsupportedOperatorError, match=r"node 'act' \(Swish\).*opset 18"):
        load_model(model)
