"""One int8 convolution or matmul inside OpenVINO, timed by its own counters.

A lone quantized operator is no int8 layer to OpenVINO: the layer is put between a quantization
and a second, small layer, NNCF quantizes the network, and the plugin's counter of this layer is
read.
"""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from benchmarks.layer_data import LayerData
from benchmarks.peer_layers import conv_attrs, one_graph
from benchmarks.peers.base import Unavailable, need

LAYER = "measured_layer"


def network(data: LayerData) -> bytes:
    """The layer, ReLU, and a layer of eight outputs after it; float."""
    layer, w = data.layer, data.w.astype(np.float32)
    if layer.is_matmul:
        first = helper.make_node("MatMul", ["x", "w"], ["sum"], LAYER)
        last = helper.make_node("MatMul", ["relu", "tail"], ["y"])
        tail, shape, w = np.ones((layer.outputs, 8), np.float32), list(layer.x_shape), w.T
    else:
        first = helper.make_node("Conv", ["x", "w"], ["sum"], LAYER, **conv_attrs(data))
        last = helper.make_node("Conv", ["relu", "tail"], ["y"], kernel_shape=[1, 1])
        tail, w = np.ones((8, layer.outputs, 1, 1), np.float32), w.transpose(0, 3, 1, 2)
        shape = [1, layer.channels, layer.height, layer.width]
    return one_graph(
        [first, helper.make_node("Relu", ["sum"], ["relu"]), last],
        {"x": (TensorProto.FLOAT, shape)},
        {"y": (TensorProto.FLOAT, None)},
        {"w": w, "tail": tail},
    )


class OpenVinoLayer:
    """The compiled network; ``run`` returns the layer's milliseconds."""

    def __init__(self, data: LayerData, threads: int) -> None:
        ov, nncf = need("openvino", "openvino"), need("nncf", "nncf")
        model = ov.Core().read_model(io.BytesIO(network(data)))
        rng = np.random.default_rng(4)
        x = rng.random(tuple(model.input().shape), np.float32)
        logging.getLogger("nncf").setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            quantized = nncf.quantize(
                model, nncf.Dataset([x]), subset_size=1, fast_bias_correction=True
            )
        config = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERF_COUNT": True}
        self.request = ov.Core().compile_model(quantized, "CPU", config).create_infer_request()
        self.request.set_input_tensor(ov.Tensor(x))
        self.request.infer()
        kind = self._counter().exec_type
        if not kind.lower().endswith(("i8", "u8")):
            raise Unavailable(f"its plugin computes the layer as {kind}")

    def _counter(self) -> Any:
        kinds = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")
        for info in self.request.get_profiling_info():
            if info.node_type in kinds and LAYER in info.node_name:
                return info
        found = [(i.node_name, i.node_type) for i in self.request.get_profiling_info()]
        raise Unavailable(f"no counter of the layer among {found}"[:300])

    def run(self) -> float:
        self.request.infer()
        return self._counter().real_time.total_seconds() * 1e3
