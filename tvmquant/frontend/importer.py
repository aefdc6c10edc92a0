"""From a prepared ONNX graph to Relax."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

import tvm
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from tvmquant.errors import ModelError, TvmQuantError
from tvmquant.frontend.converters import CONVERTERS
from tvmquant.frontend.dtypes import to_storage
from tvmquant.frontend.fold import fold_constants
from tvmquant.frontend.from_tvm import from_tvm
from tvmquant.frontend.half import widen_half
from tvmquant.frontend.messages import first_line
from tvmquant.frontend.node import NodeView, emit
from tvmquant.frontend.onnx_model import declared_inputs, opset_of
from tvmquant.frontend.operators import check_operators, check_types
from tvmquant.frontend.pixel_shuffle import reorder_pixel_shuffles
from tvmquant.frontend.qdq import lower_quantized


def from_onnx(model: ModelProto) -> tvm.IRModule:
    """Convert an ONNX model to Relax.

    Parameters
    ----------
    model : onnx.ModelProto
        Static input shapes (:func:`tvmquant.frontend.shapes.fix_shapes`), named nodes
        (:func:`tvmquant.frontend.onnx_model.load_onnx`).

    Returns
    -------
    tvm.IRModule
        One function ``main`` of ordinary float operators and, for a quantized model, the
        operators of :mod:`tvmquant.ops.waist`. Weights are constants. Every node's result is
        bound to a variable called like the node; a convolution, matrix product or transposed
        convolution with a bias is bound before the bias is added, both under that name.

    Raises
    ------
    UnsupportedOperatorError
        Lists every operator that cannot be imported, with node names; or names the first node
        with an unsupported type.
    ModelError
        A node cannot be converted, or has a shape that depends on data.
    """
    model = widen_half(model)
    folded = fold_constants(model)  # takes known branches: what they leave out is not refused
    check_operators(folded)
    prepared = reorder_pixel_shuffles(fold_constants(lower_quantized(folded)))
    check_types(prepared)
    importer = _Importer(prepared)
    # TVM's importer warns about names and prints the node it fails at.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return importer.from_onnx(prepared.graph, opset_of(prepared))


class _Importer(ONNXGraphImporter):
    """TVM's importer with our converters, node names, and byte storage for 4 and 2 bits."""

    def __init__(self, model: ModelProto) -> None:
        storage = {info.name: info.dtype for info in declared_inputs(model)}
        super().__init__(shape_dict={}, dtype_dict=storage)
        graph = model.graph
        self._elem_types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for value in (*graph.value_info, *graph.input, *graph.output):
            self._elem_types[value.name] = value.type.tensor_type.elem_type

    def _check_for_unsupported_ops(self, graph: GraphProto) -> None:
        """Done before, on the original graph."""

    def _parse_array(self, tensor_proto: TensorProto) -> tvm.runtime.Tensor:
        return tvm.runtime.tensor(to_storage(tensor_proto))

    def _construct_nodes(self, graph: GraphProto) -> None:
        for node in graph.node:
            view = NodeView(
                node,
                [self._nodes[name] if name else None for name in node.input],
                {a.name: _attribute(helper.get_attribute_value(a)) for a in node.attribute},
                self.opset,
                self._elem_types,
                self.bb,
            )
            with _errors_of(view):
                converter = CONVERTERS.get(view.proto.op_type, from_tvm)
                results = self._bind(view, converter(view))
            for name, result in zip(node.output, results):
                if name:
                    self._nodes[name] = result

    def _bind(self, view: NodeView, expr: relax.Expr) -> list[relax.Expr]:
        """Variables (or constants) for the outputs of a node."""
        if isinstance(expr, relax.Tuple):
            items = list(expr.fields)
        else:
            expr = self.bb.normalize(expr)
            if isinstance(expr.ty, tvm.ir.TupleType):
                whole = expr if isinstance(expr, relax.Var) else view.emit(expr, ".tuple")
                items = [relax.TupleGetItem(whole, i) for i in range(len(expr.ty.fields))]
            else:
                items = [expr]
        names = [view.name] + [f"{view.name}.{i}" for i in range(1, len(items))]
        results = [
            item if isinstance(item, relax.Var | tvm.ir.GenericConst) else emit(self.bb, item, name)
            for item, name in zip(items, names)
        ]
        for result in results[: len(view.proto.output)]:
            _require_static(view.proto, result)
        return results


@contextlib.contextmanager
def _errors_of(view: NodeView) -> Iterator[None]:
    try:
        yield
    except TvmQuantError:
        raise
    except Exception as error:
        # TVM's converters raise whatever they run into.
        raise ModelError(
            f"cannot import node '{view.name}' ({view.proto.op_type}): {first_line(error)}"
        ) from error


def _attribute(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _require_static(node: NodeProto, result: relax.Expr) -> None:
    shape = getattr(result.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr) or not all(
        isinstance(dim, tvm.tirx.IntImm) for dim in shape.values
    ):
        raise ModelError(
            f"the shape of node '{node.name}' ({node.op_type}) depends on the data; tvmquant "
            "needs static shapes"
        )
