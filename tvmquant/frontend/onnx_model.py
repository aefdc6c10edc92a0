"""Reading ONNX files: from a path to a model whose nodes all have a name."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto

from tvmquant.errors import ModelError
from tvmquant.frontend.dtypes import storage_dtype
from tvmquant.frontend.inputs import InputInfo
from tvmquant.frontend.messages import first_line

OLDEST_IR_VERSION = 3


def load_onnx(model: str | os.PathLike[str] | ModelProto) -> ModelProto:
    """Read an ONNX model and give every node a name.

    Parameters
    ----------
    model : str, path or onnx.ModelProto
        A ``ModelProto`` is copied, not changed.

    Returns
    -------
    onnx.ModelProto
        Model-local functions are inlined; a node without a name is called like its first output.

    Raises
    ------
    ModelError
        The file is missing, not ONNX, truncated, or its external data is missing.
    """
    if isinstance(model, ModelProto):
        where, loaded = "the ONNX model", ModelProto()
        loaded.CopyFrom(model)
    else:
        where, loaded = str(model), _read(Path(model))
    if not loaded.graph.node and not loaded.graph.output:
        raise ModelError(f"{where} is not an ONNX model: it has no graph")
    if loaded.ir_version < OLDEST_IR_VERSION:
        raise ModelError(
            f"{where} has ONNX IR version {loaded.ir_version}; version {OLDEST_IR_VERSION} "
            "or later is needed: export it again with a newer exporter"
        )
    if loaded.functions:
        loaded = onnx.inliner.inline_local_functions(loaded)
    _name_nodes(loaded.graph)
    return loaded


def opset_of(model: ModelProto) -> int:
    """Version of the default operator set."""
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return versions[0] if versions else 1


def graph_inputs(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    """Inputs that the caller must feed (old models list their weights as inputs, too)."""
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def declared_inputs(model: ModelProto) -> list[InputInfo]:
    """Inputs as the model declares them; dimensions that are not static are ``None``."""
    infos = []
    for value in graph_inputs(model.graph):
        tensor = value.type.tensor_type
        if not tensor.elem_type:
            raise ModelError(f"input '{value.name}' is not a tensor; only tensors can be fed")
        dims = tuple(d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim)
        infos.append(InputInfo(value.name, dims, storage_dtype(tensor.elem_type)))
    return infos


def _read(path: Path) -> ModelProto:
    if not path.exists():
        raise ModelError(f"model file {path} does not exist")
    if not path.is_file():
        raise ModelError(f"{path} is a folder, not an ONNX file")
    try:
        return onnx.load(path)
    except DecodeError:
        raise ModelError(f"{path} is not an ONNX file, or is damaged") from None
    except (OSError, onnx.checker.ValidationError) as error:
        raise ModelError(f"cannot read {path}: {first_line(error)}") from None


def _name_nodes(graph: GraphProto) -> None:
    for node in graph.node:
        if not node.name:
            node.name = next((name for name in node.output if name), node.op_type)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _name_nodes(attribute.g)
