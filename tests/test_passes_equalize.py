"""Cross-layer equalization."""

import numpy as np
import pytest
from networks import Net, interpret

from tvmquant.frontend import load_model
from tvmquant.graph import Graph, const_value, name_of
from tvmquant.interpreter import Interpreter
from tvmquant.passes.batch_norms import ChannelNorm
from tvmquant.passes.equalize import equalize, equalize_norms, equalized, reached
from tvmquant.passes.layer_pairs import find_pairs
from tvmquant.passes.simplify import simplify
from tvmquant.quant_spec import QuantSpec
from tvmquant.quantizer import quantize
from tvmquant.recipe import Recipe


def chain(activation="Relu", spread=2.0):
    """conv → depthwise → conv → dense, with channels of very different ranges."""
    net = Net()

    def act(y):
        if activation == "PRelu":
            return net.op("PRelu", y, net.rng.uniform(0, 0.5, (8, 1, 1)).astype(np.float32))
        return net.op(activation, y) if activation else y

    y = act(net.conv(net.input(1, 4, 8, 8), 4, 8))
    y = act(net.conv(y, 8, 8, group=8))
    y = act(net.conv(y, 8, 8, 1))
    y = net.conv(y, 8, 6)
    for i, name in enumerate(list(net.constants)):
        value = net.constants[name]
        if value.ndim == 4 and value.shape[0] == 8:
            rng = np.random.default_rng(i)
            factor = np.exp(rng.normal(0, spread, 8)).astype(np.float32)
            net.constants[name] = value * factor.reshape(-1, 1, 1, 1)
    return net, net.model(y)


def simplified(model):
    return simplify(load_model(model).mod)


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "PRelu", ""])
def test_outputs_stay_and_ranges_meet(activation):
    net, model = chain(activation)
    mod = simplified(model)
    pairs = find_pairs(mod)
    assert len(pairs) == 3
    out = equalize(mod)
    for feeds in net.data(3):
        (want,), (got,) = (interpret(m, list(feeds.values())) for m in (mod, out))
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    graph = Graph(out)
    layers = [const_value(v.args[1]) for _, v in graph.bindings if name_of(v) == "nn.conv2d"]
    first, depthwise, third, last = layers
    np.testing.assert_allclose(
        np.abs(first).max((1, 2, 3)), np.abs(depthwise).max((1, 2, 3)), rtol=0.02
    )
    np.testing.assert_allclose(
        np.abs(depthwise).max((1, 2, 3)), np.abs(third).max((0, 1, 2)), rtol=0.02
    )
    np.testing.assert_allclose(np.abs(third).max((1, 2, 3)), np.abs(last).max((0, 1, 2)), rtol=0.02)


def test_it_saves_a_network_with_one_scale_per_layer():
    net, model = chain(spread=1.5)
    feeds = net.data(8)
    weights = QuantSpec(symmetric=True, granularity="per_tensor")
    mod = simplified(model)

    def error(**changes):
        recipe = Recipe(weights=weights, first_last_bits=None, **changes)
        qdq = quantize(model, recipe=recipe, calibration=feeds).mod
        pairs = [[interpret(m, list(f.values()))[0] for m in (mod, qdq)] for f in feeds]
        return sum(np.sum((a - b) ** 2) for a, b in pairs)

    assert error(equalize=True) < 0.5 * error()


def test_branches_and_groups_are_left_alone():
    net = Net()
    x = net.input(1, 4, 6, 6)
    y = net.op("Relu", net.conv(x, 4, 4))
    z = net.op("Clip", net.conv(y, 4, 4), np.float32(-1), np.float32(6))
    z = net.conv(z, 4, 4)
    w = net.conv(net.op("Relu", z), 4, 4, group=2)
    mod = simplified(net.model(net.op("Add", y, w)))
    assert find_pairs(mod) == []


def test_dead_channels_stay_finite():
    net, model = chain()
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [8, 1, 3, 3]:
            raw = np.frombuffer(tensor.raw_data, np.float32).copy()
            raw[:9] = 0
            tensor.raw_data = raw.tobytes()
    mod = equalize(simplified(model))
    for feeds in net.data(1):
        assert np.isfinite(interpret(mod, list(feeds.values()))[0]).all()


def relu6_chain():
    """conv → ReLU6 → depthwise → ReLU6 → conv, with channels of very different ranges."""
    net = Net(3)

    def act(y):
        return net.op("Clip", y, np.float32(0), np.float32(6))

    y = act(net.conv(net.input(1, 4, 8, 8), 4, 8, name="first"))
    y = net.conv(act(net.conv(y, 8, 8, group=8, name="second")), 8, 6, 1)
    names = [name for name, value in net.constants.items() if value.shape == (8, 4, 3, 3)]
    factor = np.array([0.01, 0.1, 0.3, 1, 1, 2, 4, 8], np.float32).reshape(-1, 1, 1, 1)
    net.constants[names[0]] = net.constants[names[0]] * factor
    return net, simplified(net.model(y))


def test_what_channels_reach_is_read_off_samples():
    net, mod = relu6_chain()
    batches = [list(feeds.values()) for feeds in net.data(4)]
    found = reached(mod, batches, margin=1.5)
    pairs = find_pairs(mod)
    assert set(found) == {pair.bias.name for pair in pairs}
    for name, values in found.items():
        seen = [interpreted(mod, b)[name].max((0, 1, 2)) for b in batches]
        np.testing.assert_allclose(values, np.maximum(np.max(seen, 0), 0) * 1.5, rtol=1e-6)
    assert reached(simplified(chain()[1]), batches) == {}


def test_equalizing_by_samples_keeps_what_they_give():
    net, mod = relu6_chain()
    batches = [list(feeds.values()) for feeds in net.data(4)]
    out, scales = equalized(mod, reached(mod, batches))
    assert max(np.abs(np.log(scale)).max() for scale in scales.values()) > 0.5
    for batch in batches:
        for want, got in zip(interpret(mod, batch), interpret(out, batch)):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_recipes_equalize_through_relu6_with_one_scale_a_tensor(granularity):
    net, _ = relu6_chain()
    model = net.model(net.nodes[-1].output[0])
    recipe = Recipe(weights=QuantSpec(symmetric=True, granularity=granularity), equalize=True)
    quantized = quantize(model, recipe=recipe, calibration=net.data(4))
    plain = equalize(simplified(model))
    first = [const_value(v.args[1]) for _, v in Graph(plain).bindings if name_of(v) == "nn.conv2d"]
    own = quantized.reference
    layers = [v for _, v in Graph(own).bindings if name_of(v) == "nn.conv2d"]
    weights = [const_value(Graph(own).value(v.args[1]).args[0]) for v in layers]
    same = all(np.allclose(a, b, rtol=1e-5) for a, b in zip(first, weights, strict=True))
    assert same == (granularity == "per_channel")


def test_relu6_keeps_its_bound_where_channels_reach_it():
    net, mod = relu6_chain()
    batches = [list(feeds.values()) for feeds in net.data(6)]
    assert [pair.bound for pair in find_pairs(mod)] == [6, 6]
    assert equalized(mod, {})[1] == {}
    pair = find_pairs(mod)[0]
    seen = np.max([interpreted(mod, b)[pair.bias.name].max((0, 1, 2)) for b in batches], 0)
    assert (seen < 6).any() and (seen > 6).any()
    out, scales = equalized(mod, {pair.bias.name: seen})
    assert scales.keys() == {v.name for v in (pair.first, pair.bias, pair.activation)}
    scale = scales[pair.bias.name]
    np.testing.assert_allclose(scale[seen >= 6], 1)
    assert (np.abs(np.log(scale[seen < 6])) > 0.1).any()
    assert np.all(seen / scale < np.maximum(seen, 6) * 1.001)
    for batch in batches:
        (want,), (got,) = (interpret(m, batch) for m in (mod, out))
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def interpreted(mod, batch):
    """All tensors by name."""
    found = {}
    Interpreter(mod).run(batch, lambda var, _value, result: found.__setitem__(var.name, result))
    return found


def test_batch_norms_follow_the_scales():
    net, model = chain()
    mod = simplified(model)
    batches = [list(feeds.values()) for feeds in net.data(4)]
    names = [pair.bias.name for pair in find_pairs(mod)]

    def statistics(module):
        runs = [interpreted(module, batch) for batch in batches]
        stacked = {name: np.concatenate([r[name].reshape(-1, 8) for r in runs]) for name in names}
        return {name: ChannelNorm(v.mean(0), v.std(0)) for name, v in stacked.items()}

    out, norms = equalize_norms(mod, {**statistics(mod), "else": ChannelNorm(*np.ones((2, 3)))})
    for name, want in statistics(out).items():
        np.testing.assert_allclose(norms[name].mean, want.mean, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(norms[name].std, want.std, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(norms["else"].mean, np.ones(3))


def test_relu6_is_left_alone_where_asked_for():
    _, mod = relu6_chain()
    norms = {p.bias.name: ChannelNorm(np.zeros(8), np.full(8, 0.1)) for p in find_pairs(mod)}
    _, scaled = equalize_norms(mod, norms)
    _, same = equalize_norms(mod, norms, clips=False)
    for name, norm in norms.items():
        np.testing.assert_array_equal(same[name].std, norm.std)
        assert not np.allclose(scaled[name].std, norm.std)
