"""Whole networks for NVIDIA GPUs in an emulator: what the integers give, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
from gpu_light_tools import Emulated, cuda_text
from networks import Net, interpret, realized
from test_networks import finished
from tvm import tirx

from tvmquant.passes.pipeline import to_device
from tvmquant.recipe import Recipe
from tvmquant.schedules.selection import KernelTable
from tvmquant.targets import get_device


def check(model, data, recipe, arch, folder, reverse):
    built = realized(model, data, recipe=recipe)
    device = get_device(f"cuda-{arch}")
    _, mod = to_device(built.integers, KernelTable(device))
    functions = {g.name_hint: f for g, f in mod.functions.items() if isinstance(f, tirx.PrimFunc)}
    emulated = Emulated(cuda_text(functions, device.target), folder)
    inputs = [data[0][info.name] for info in built.quantized.inputs]
    want = interpret(built.integers, inputs)
    for got, meant in zip(emulated.run(mod, *inputs, reverse=reverse), want, strict=True):
        np.testing.assert_array_equal(got, meant)


def mixed():
    """Residual additions, a depthwise layer, pooling, odd channels, several images, two outputs."""
    net = Net(opset=20)
    x = net.op(
        "Relu", net.conv(net.input(3, 1, 11, 9), 1, 20, 3, strides=[2, 1], pads=[1, 0, 2, 1])
    )
    y = net.op("Relu", net.conv(x, 20, 20, 3, group=20))
    y = net.op("Relu", net.op("Add", net.conv(y, 20, 20, 1), x))
    y = net.op("MaxPool", net.conv(y, 20, 7, 3, group=1), kernel_shape=[2, 2], strides=[2, 2])
    pooled = net.op("Flatten", net.op("GlobalAveragePool", y))
    return net.model(net.dense(pooled, 7, 30), y), net.data(2)


@pytest.mark.parametrize(
    "name, arch, bits, flavour, reverse",
    [
        ("mixed", "sm_80", "w4a4", "fixed_point", False),
        ("mixed", "sm_90", 8, "float", True),
        ("transposed", "sm_75", 1, "power_of_two", False),
        ("batched matmul", "sm_90", "w4a8", "fixed_point", True),
    ],
)
def test_networks_are_exact(name, arch, bits, flavour, reverse, tmp_path):
    model, data = mixed() if name == "mixed" else finished(name)
    recipe = replace(Recipe.for_bits(bits, first_last_bits=None), requantize=flavour)
    check(model, data, recipe, arch, tmp_path, reverse)
