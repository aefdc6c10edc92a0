"""From packed layers to scheduled functions."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import tvm
from networks import Net, realized
from tvm import tirx

from tvmquant.graph import Graph, name_of
from tvmquant.passes.lower import KERNEL, PREPARE, lower, workload_from_json
from tvmquant.passes.pack import pack
from tvmquant.passes.schedule import UNSCHEDULED
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.workload import Workload
from tvmquant.targets import get_device


def lowered(net, *outputs):
    kernels = KernelTable(get_device("host"))
    integers = realized(net.model(*outputs), net.data(1)).integers
    return lower(pack(integers, kernels), kernels)


def network():
    net = Net()
    x = net.op("HardSwish", net.conv(net.input(1, 8, 6, 6), 8, 8))
    y = net.op("Add", x, net.conv(x, 8, 8, group=8))
    y = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("Flatten", net.op("GlobalAveragePool", net.conv(y, 8, 8)))
    return net, net.op("Softmax", net.dense(y, 8, 4))


def functions(mod):
    return {g.name_hint: f for g, f in mod.functions.items() if isinstance(f, tirx.PrimFunc)}


def test_everything_is_a_scheduled_function():
    mod = lowered(*network())
    names = {name_of(value) for _, value in Graph(mod).bindings} - {None}
    assert names <= {"call_tir", "call_pure_packed", "memory.view", "reshape"}
    assert not list(mod.attrs[UNSCHEDULED])
    assert sum(KERNEL in (f.attrs or {}) for f in functions(mod).values()) == 4


def test_reshapes_are_views():
    net, output = network()
    mod = lowered(net, output)
    assert "reshape" in [name_of(value) for _, value in Graph(mod).bindings]
    assert not [name for name in functions(mod) if "reshape" in name]


def test_layers_of_one_workload_share_their_function():
    net = Net()
    y = net.input(1, 8, 6, 6)
    for _ in range(4):
        y = net.op("Relu", net.conv(y, 8, 8))
    kernels = [f for f in functions(lowered(net, y)).values() if KERNEL in (f.attrs or {})]
    assert len(kernels) <= 3


def test_workloads_survive_json():
    workload = Workload("conv2d", (1, 4, 4, 8), (8, 3, 3, 8), (1, 1), (1, 1, 1, 1), (1, 1))
    assert workload_from_json(json.dumps(asdict(workload))) == workload


def test_the_module_can_be_built_and_run():
    net, y = network()
    mod = lowered(net, y)
    device = get_device("host")
    executable = tvm.compile(mod, target=device.target)
    machine = tvm.relax.VirtualMachine(executable, tvm.cpu())
    expands = any(g.name_hint == PREPARE for g in mod.get_global_vars())
    constants = list(machine[PREPARE]()) if expands else []
    out = machine["main"](tvm.runtime.tensor(net.data(1)[0]["x0"]), *constants).numpy()
    np.testing.assert_allclose(out.sum(), 1, rtol=1e-5)
