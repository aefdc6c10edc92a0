"""A pixel shuffle behind a convolution: channels in the order in which they are wanted.

Super-resolution networks end in a convolution and ``DepthToSpace`` in mode CRD, which takes the
channels of one output pixel from places that are a block apart. Reordering the rows of the
convolution's weights makes them neighbours (mode DCR): channels last, whole pixels are copied.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper


def reorder_pixel_shuffles(model: ModelProto) -> ModelProto:
    """Copy of a model with ``DepthToSpace`` in mode DCR behind reordered convolutions.

    Only convolutions of one group with constant weights that nothing else reads are reordered;
    the model computes the same numbers.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        conv = makers.get(node.input[0]) if node.op_type == "DepthToSpace" else None
        if conv is None or conv.op_type != "Conv" or uses[conv.output[0]] != 1:
            continue
        attributes = {a.name: a for a in node.attribute}
        if "mode" not in attributes or attributes["mode"].s != b"CRD":
            continue
        own = [constants.get(name) for name in conv.input[1:] if name]
        if None in own or any(uses[t.name] != 1 for t in own) or _groups(conv) != 1:
            continue
        area = attributes["blocksize"].i ** 2
        for tensor in own:
            array = numpy_helper.to_array(tensor)
            order = np.arange(len(array)).reshape(-1, area).T.reshape(-1)
            tensor.CopyFrom(numpy_helper.from_array(array[order], tensor.name))
        attributes["mode"].CopyFrom(helper.make_attribute("mode", "DCR"))
    return changed


def _groups(conv: NodeProto) -> int:
    return next((a.i for a in conv.attribute if a.name == "group"), 1)
