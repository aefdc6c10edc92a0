"""Lowering of the operators of dynamic quantization (:mod:`tvmquant.ops.dynamic`)."""

from __future__ import annotations

from functools import partial
from typing import Any

import tvm
from tvm import relax, te, tirx

from tvmquant.ops.dynamic import DYNAMIC_QUANTIZE, DYNAMIC_RESCALE, PADDING_INFO
from tvmquant.ops.integer import shape_of
from tvmquant.schedules.compute.dynamic_quantize import DynamicQuantizeKernel
from tvmquant.schedules.compute.dynamic_te import dynamic_quantize_te
from tvmquant.schedules.compute.legalize import emit, legalizes, load
from tvmquant.targets.device import get_device


def dynamic_rescale_te(acc: te.Tensor, zero_point: Any, sums: Any, *scales: Any) -> te.Tensor:
    """See :func:`tvmquant.reference.dynamic_rescale`."""

    def element(*index: Any) -> Any:
        point = load(zero_point, index).astype("int32")
        corrected = acc(*index) - point * load(sums, index)
        if not scales:
            return corrected
        scale, w_scale, bias = (load(param, index) for param in scales)
        product = corrected.astype("float32").astype("float64")
        product = product * (scale * w_scale).astype("float64")
        return (product + bias.astype("float64")).astype("float32")

    return te.compute(acc.shape, element, name="dynamic_rescale")


def padding_info_te(zero_point: Any) -> te.Tensor:
    """``[zero_point, 0, 0, 255]``."""

    def element(i: Any) -> Any:
        bound = tirx.Select(i == 3, tirx.const(255, "int32"), tirx.const(0, "int32"))
        return tirx.Select(i == 0, load(zero_point, ()).astype("int32"), bound)

    return te.compute((4,), element, name="padding_info")


@legalizes(DYNAMIC_QUANTIZE)
def _legalize_quantize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    target = tvm.target.Target.current(allow_none=True)
    if target is not None and target.kind.name != "llvm":
        attrs = {"bits": int(call.attrs["bits"])}
        attrs |= {key: bool(call.attrs[key]) for key in ("per_row", "symmetric")}
        made = partial(dynamic_quantize_te, **attrs)
        return bb.call_te(made, call.args[0], primfunc_name_hint="dynamic_quantize")
    device = get_device(target or "host")
    kernel = DynamicQuantizeKernel(
        tuple(shape_of(call.args[0])),
        int(call.attrs["bits"]),
        bool(call.attrs["per_row"]),
        bool(call.attrs["symmetric"]),
        device,
    )
    function = bb.add_func(kernel.prim_func().without_attr("global_symbol"), kernel.name)
    return relax.call_tir(function, [call.args[0]], list(call.ty.fields))


@legalizes(DYNAMIC_RESCALE)
def _legalize_rescale(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return emit(bb, "dynamic_rescale", dynamic_rescale_te, call.args)


@legalizes(PADDING_INFO)
def _legalize_info(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return emit(bb, "padding_info", padding_info_te, call.args)
