"""Phase 5: choose a kernel for every convolution and matmul and pack its constants for it.

Integer layers and the float layers that remain become ``tvmquant.packed`` calls whose constants
are laid out (and, below 8 bits, really packed) in the order in which the kernel reads them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, const_value, name_of, rewrite
from tvmquant.ops import is_op, make_call
from tvmquant.ops.dynamic import DYNAMIC_CONV2D, padding_info
from tvmquant.ops.half import HALF_TO_FLOAT
from tvmquant.ops.integer import ints, shape_of
from tvmquant.ops.weight_only import WEIGHT_ONLY
from tvmquant.passes.fold_affine import per_channel
from tvmquant.precision import HALF_BITS
from tvmquant.reference import half_to_float
from tvmquant.schedules.linear import cannot_saturate
from tvmquant.schedules.selection import KernelTable, label_of
from tvmquant.schedules.winograd import weight_bound
from tvmquant.schedules.workload import Workload


def pack(mod: tvm.IRModule, kernels: KernelTable) -> tvm.IRModule:
    """Replace linear operators by packed ones.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``realize``.
    kernels : KernelTable
        Chooses the kernels.

    Returns
    -------
    tvm.IRModule
    """
    return rewrite(mod, _Packer(kernels).visit)


class _Packer:
    def __init__(self, kernels: KernelTable) -> None:
        self.kernels = kernels
        self.float_layers: dict[relax.Var, relax.Call] = {}

    def visit(self, builder: Builder, var: relax.Var, value: Any) -> Any:
        if is_op(value, "tvmquant.conv2d", "tvmquant.matmul"):
            return self._integer(builder, value)
        if is_op(value, DYNAMIC_CONV2D):
            return self._dynamic_conv2d(builder, value)
        if is_op(value, WEIGHT_ONLY):
            return self._weight_only(builder, value)
        kind = name_of(value)
        is_float = (kind == "nn.conv2d" and _is_float_conv(value)) or (
            kind == "matmul" and _is_float_matmul(value)
        )
        is_float = is_float and _float_weight(builder, value.args[1]) is not None
        if is_float:
            bound = builder.emit(self._float(builder, var.name, value, None), var.name)
            self.float_layers[bound] = value
            return bound
        if kind == "add":
            return self._float_bias(builder, var.name, value)
        return None

    def _dynamic_conv2d(self, builder: Builder, call: relax.Call) -> Any:
        x, weight_const, zero_point = call.args
        weight = const_value(weight_const)
        x_bits, w_bits = int(call.attrs["x_bits"]), int(call.attrs["w_bits"])
        common = {
            "x_bits": x_bits,
            "w_bits": w_bits,
            "requantize": "none",
            "no_saturation": w_bits == 8 and cannot_saturate(weight, x_bits),
        }
        if _may_be_winograd(weight, call.attrs):
            common["max_abs_sum"] = weight_bound(weight)
        workload = _conv_workload("conv2d", shape_of(x), weight, call, common)
        name, bias = str(call.attrs["name"]), np.zeros(len(weight), np.int32)
        if any(workload.padding):
            qinfo = builder.emit(padding_info(zero_point), f"{name}/qinfo")
        else:
            qinfo = np.array([0, 0, 0, 255], np.int32)
        return self._packed(builder, x, workload, name, weight, bias, (), qinfo, shape_of(call))

    def _integer(self, builder: Builder, call: relax.Call) -> Any:
        x, weight_const, bias_const, *param_consts = call.args
        weight, bias = const_value(weight_const), const_value(bias_const)
        params = tuple(const_value(p) for p in param_consts)
        attrs = call.attrs
        x_bits, w_bits = int(attrs["x_bits"]), int(attrs["w_bits"])
        common = {
            "x_bits": x_bits,
            "w_bits": w_bits,
            "requantize": str(attrs["requantize"]),
            "no_saturation": w_bits == 8 and cannot_saturate(weight, x_bits),
        }
        if is_op(call, "tvmquant.matmul"):
            workload = _matmul_workload("matmul", shape_of(x), weight, common)
        else:
            if _may_be_winograd(weight, attrs):
                common["max_abs_sum"] = weight_bound(weight)
            workload = _conv_workload("conv2d", shape_of(x), weight, call, common)
        keys = ("x_zero_point", "out_zero_point", "out_min", "out_max")
        qinfo = np.array([int(attrs[key]) for key in keys], np.int32)
        return self._packed(
            builder, x, workload, str(attrs["name"]), weight, bias, params, qinfo, shape_of(call)
        )

    def _weight_only(self, builder: Builder, call: relax.Call) -> Any:
        x, *constants = call.args
        weight, scale, bias, *zero_point = map(const_value, constants)
        group_size = int(call.attrs["group_size"])
        common = {
            "x_bits": 32,
            "w_bits": int(call.attrs["bits"]),
            "requantize": "float32",
            "group_size": 0 if group_size >= weight.shape[1] else group_size,
            "zero_points": bool(zero_point),
        }
        workload = _matmul_workload("matmul_weight_only", shape_of(x), weight, common)
        name, params = str(call.attrs["name"]), (scale, *zero_point)
        return self._packed(builder, x, workload, name, weight, bias, params, None, shape_of(call))

    def _float(self, builder: Builder, name: str, call: relax.Call, bias: np.ndarray | None) -> Any:
        x = call.args[0]
        weight, w_bits = _float_weight(builder, call.args[1])
        common = {"x_bits": 32, "w_bits": w_bits, "requantize": "float32"}
        if name_of(call) == "matmul":
            weight = np.ascontiguousarray(weight.T)
            workload = _matmul_workload("matmul_float", shape_of(x), weight, common)
        else:
            workload = _conv_workload("conv2d_float", shape_of(x), weight, call, common)
        channels = weight.shape[0]
        full = np.zeros(channels, np.float32) if bias is None else np.broadcast_to(bias, channels)
        full = np.ascontiguousarray(full, np.float32)
        return self._packed(builder, x, workload, name, weight, full, (), None, shape_of(call))

    def _float_bias(self, builder: Builder, name: str, call: relax.Call) -> Any:
        """Bias of a float layer: packed again with it (the first packing is then dead)."""
        bias = per_channel(call.args[1], shape_of(call))
        x = call.args[0]
        if bias is None or not isinstance(x, relax.Var) or builder.uses.get(x, 1) != 1:
            return None
        layer = self.float_layers.get(x)
        return None if layer is None else self._float(builder, x.name, layer, bias)

    def _packed(
        self,
        builder: Builder,
        x: Any,
        workload: Workload,
        name: str,
        weight: np.ndarray,
        bias: np.ndarray,
        params: tuple[np.ndarray, ...],
        qinfo: np.ndarray | relax.Var | None,
        out_shape: list[int],
    ) -> Any:
        kernel = self.kernels[workload]
        constants = [relax.const(array) for array in kernel.pack(weight, bias, params)]
        if qinfo is not None:
            constants.append(qinfo if isinstance(qinfo, relax.Var) else relax.const(qinfo))
        flat = workload.op.startswith("matmul") and len(out_shape) != 2
        if flat:
            x = builder.emit(relax.op.reshape(x, list(workload.x_shape)), f"{name}/rows")
        call = make_call(
            "tvmquant.packed",
            [x, *constants],
            op=workload.op,
            kernel=label_of(kernel),
            note=self.kernels.note(workload),
            workload=json.dumps(asdict(workload)),
            out_shape=list(workload.out_shape),
            out_dtype=workload.out_dtype,
            name=name,
        )
        if not flat:
            return call
        return relax.op.reshape(builder.emit(call, name), out_shape)


def _may_be_winograd(weight: np.ndarray, attrs: Any) -> bool:
    """Only such layers need the bound; for others it would only split kernels by weights."""
    steps = [*ints(attrs["strides"]), *ints(attrs["dilation"]), int(attrs["groups"])]
    return weight.shape[1:3] == (3, 3) and steps == [1] * 5


def _is_float_conv(call: relax.Call) -> bool:
    attrs = call.attrs
    layouts = str(attrs["data_layout"]) == "NHWC" and str(attrs["kernel_layout"]) == "OHWI"
    return layouts and str(call.ty.dtype) == "float32"


def _is_float_matmul(call: relax.Call) -> bool:
    return len(shape_of(call.args[1])) == 2 and str(call.ty.dtype) == "float32"


def _float_weight(builder: Builder, expr: Any) -> tuple[np.ndarray, int] | None:
    """float32 weights and the bits that they are stored with; ``None`` if they are no constant."""
    node = builder.value(expr)
    if is_op(node, HALF_TO_FLOAT):
        bits = const_value(node.args[0])
        return None if bits is None else (half_to_float(bits), HALF_BITS)
    weight = const_value(expr)
    return None if weight is None else (weight, 32)


def _matmul_workload(
    op: str, x_shape: list[int], weight: np.ndarray, common: dict[str, Any]
) -> Workload:
    rows = int(np.prod(x_shape[:-1]))
    return Workload(op, (rows, x_shape[-1]), tuple(weight.shape), **common)


def _conv_workload(
    op: str, x_shape: list[int], weight: np.ndarray, call: relax.Call, common: dict[str, Any]
) -> Workload:
    groups = int(call.attrs["groups"])
    depthwise = groups == x_shape[-1] == weight.shape[0] and weight.shape[3] == 1 and groups > 1
    lists = {key: tuple(ints(call.attrs[key])) for key in ("strides", "padding", "dilation")}
    return Workload(
        f"depthwise_{op}" if depthwise else op,
        tuple(x_shape),
        tuple(weight.shape),
        groups=groups,
        **lists,
        **common,
    )
