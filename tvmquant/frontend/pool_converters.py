"""Converters of pooling operators."""

from __future__ import annotations

from tvm import relax

from tvmquant.errors import UnsupportedOperatorError
from tvmquant.frontend.from_tvm import from_tvm
from tvmquant.frontend.node import NodeView, same_pads, shape_of


def _average_pool(node: NodeView) -> relax.Expr:
    return _pool(node, "avg_pool")


def _max_pool(node: NodeView) -> relax.Expr:
    if sum(map(bool, node.proto.output)) > 1:
        raise UnsupportedOperatorError(
            f"node '{node.name}' (MaxPool): its output Indices is not supported"
        )
    return _pool(node, "max_pool")


def _pool(node: NodeView, name: str) -> relax.Expr:
    x = node.inputs[0]
    kernel = node.attrs["kernel_shape"]
    spatial = len(kernel)
    strides = node.attrs.get("strides", (1,) * spatial)
    dilations = node.attrs.get("dilations", (1,) * spatial)
    pads = list(node.attrs.get("pads", (0,) * (2 * spatial)))
    auto_pad = node.text("auto_pad", "NOTSET")
    if auto_pad.startswith("SAME"):
        pads = same_pads(shape_of(x)[2:], kernel, strides, dilations, auto_pad == "SAME_UPPER")
    elif auto_pad == "VALID":
        pads = [0] * (2 * spatial)
    op = getattr(relax.op.nn, f"{name}{spatial}d")
    return op(
        x,
        list(kernel),
        list(strides),
        pads,
        list(dilations),
        bool(node.attrs.get("ceil_mode", 0)),
        bool(node.attrs.get("count_include_pad", 0)),
    )


def _roi_align(node: NodeView) -> relax.Expr:
    if node.text("mode", "avg") != "avg":
        raise UnsupportedOperatorError(
            f"node '{node.name}' (RoiAlign): only mode 'avg' is supported"
        )
    return from_tvm(node)


POOL_CONVERTERS = {
    "AveragePool": _average_pool,
    "MaxPool": _max_pool,
    "RoiAlign": _roi_align,
}
