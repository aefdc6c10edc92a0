"""Counts of one layer as tvmquant's kernel, checked bit for bit against the NumPy reference."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from benchmarks.arm.cross import build_program, link
from benchmarks.arm.plugin import Counts, count_call
from benchmarks.layer_cases import Layer
from tests.emulated_pi import EmulatedPi
from tvmquant import reference
from tvmquant.schedules.registry import kernels_for, no_kernel
from tvmquant.schedules.selection import expansion_of, label_of
from tvmquant.schedules.winograd import weight_bound
from tvmquant.schedules.workload import Workload
from tvmquant.targets import Device, get_device
from tvmquant.tuning.data import Case, make_case

_CODES = {"i": 0, "u": 1, "f": 2}


@dataclass(frozen=True)
class OurCount:
    """Executed instructions of one call of a kernel.

    Attributes
    ----------
    label : str
        Name of the kernel.
    exact : bool
        Whether the result equals the reference bit for bit.
    counts : Counts
    """

    label: str
    exact: bool
    counts: Counts


def device_of(cpu: str, *features: str) -> Device:
    """Device of a core such as ``cortex-a72``, with features to add such as ``+i8mm``."""
    target = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu, "num-cores": 4}
    return get_device(target | ({"mattr": list(features)} if features else {}))


def workload_of(layer: Layer, x_bits: int, w_bits: int) -> Workload:
    """What ``pack`` would ask a kernel for."""
    bits = {"x_bits": x_bits, "w_bits": w_bits}
    if layer.is_matmul:
        return Workload("matmul", layer.x_shape, layer.w_shape, **bits)
    workload = Workload(
        "depthwise_conv2d" if layer.groups > 1 else "conv2d",
        layer.x_shape,
        layer.w_shape,
        (layer.stride, layer.stride),
        layer.padding,
        (1, 1),
        layer.groups,
        **bits,
    )
    if layer.kernel == 3 and layer.stride == 1 and layer.groups == 1:
        workload = replace(workload, max_abs_sum=weight_bound(make_case(workload).weight))
    return workload


def find(workload: Workload, device: Device, kernel: str = "") -> Any:
    """The kernel that ``compile`` would choose, or the first whose name contains ``kernel``."""
    for candidate in kernels_for(workload, device):
        if kernel in label_of(candidate) or kernel in candidate.name:
            return candidate
    raise no_kernel(workload, device)


def count_kernel(pi: EmulatedPi, cpu: str, kernel: Any, workload: Workload) -> OurCount:
    """Count one call of a kernel.

    Parameters
    ----------
    pi : EmulatedPi
    cpu : str
        The core that is emulated, for example ``cortex-a72``.
    kernel : Kernel
        Made for a device that this core can be.
    workload : Workload
    """
    case = make_case(workload)
    device = getattr(kernel, "device", None) or device_of(cpu)
    with _layer_files(kernel, workload, case, device) as (library, arguments):
        out = arguments.with_name("out")
        program = build_program("layer_runner.c")

        def command(calls: int) -> list[str | Path]:
            return [program, library, arguments, out, str(calls)]

        counts = count_call(pi, cpu, command, library)
        found = np.fromfile(out, workload.out_dtype).reshape(workload.out_shape)
    return OurCount(
        label_of(kernel), bool(np.array_equal(found, _expected(workload, case))), counts
    )


@contextmanager
def _layer_files(
    kernel: Any, workload: Workload, case: Case, device: Device
) -> Iterator[tuple[Path, Path]]:
    """The kernel's library and the file of its arguments."""
    functions = {"layer": kernel.prim_func().with_attr("global_symbol", "layer")}
    stored = kernel.pack(case.weight, case.bias, case.params)
    arrays = [case.x, *stored, *([] if case.qinfo is None else [case.qinfo])]
    expansion = expansion_of(kernel)
    prepare: list[int] = []
    layer = list(range(len(arrays)))
    if expansion is not None:
        functions["prepare"] = expansion.func.with_attr("global_symbol", "prepare")
        made = list(range(len(arrays), len(arrays) + len(expansion.outputs)))
        arrays += [np.zeros(shape, dtype) for shape, dtype in expansion.outputs]
        prepare = [*range(1, 1 + expansion.inputs), *made]
        layer = [0, *made, *layer[1 + expansion.inputs :]]
    layer.append(len(arrays))
    arrays.append(np.zeros(workload.out_shape, workload.out_dtype))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        library = work / "layer.so"
        built = tvm.compile(tvm.IRModule(functions), target=device.target)
        built.export_library(str(library), fcompile=link)
        _write_arguments(work / "arguments", arrays, prepare, layer)
        yield library, work / "arguments"


def _write_arguments(
    path: Path, arrays: Sequence[np.ndarray], prepare: Sequence[int], layer: Sequence[int]
) -> None:
    """Write what ``layer_runner.c`` reads."""

    def numbers(*values: int) -> bytes:
        return struct.pack(f"<{len(values)}q", *values)

    with path.open("wb") as stream:
        stream.write(numbers(len(arrays)))
        for array in arrays:
            kind = (_CODES[array.dtype.kind], array.itemsize * 8, array.ndim)
            stream.write(numbers(*kind, *array.shape, array.nbytes))
            stream.write(np.ascontiguousarray(array).tobytes())
        for indices in (prepare, layer):
            stream.write(numbers(len(indices), *indices))


def _expected(workload: Workload, case: Case) -> np.ndarray:
    x_zero, out_zero, out_min, out_max = (int(v) for v in case.qinfo)
    end = {
        "requantize_flavour": workload.requantize,
        "out_zero_point": out_zero,
        "out_min": out_min,
        "out_max": out_max,
    }
    constants = (case.x, case.weight, case.bias, case.params)
    if workload.op == "matmul":
        # The input's zero point is part of the bias.
        return reference.matmul(*constants, **end)
    return reference.conv2d(
        *constants,
        strides=workload.strides,
        padding=workload.padding,
        dilation=workload.dilation,
        groups=workload.groups,
        x_zero_point=x_zero,
        **end,
    )
