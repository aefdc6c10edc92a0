"""AIMET: its simulation of integers in float, with its equalization and its AdaRound."""

from __future__ import annotations

import contextlib
import io
import logging
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from benchmarks.accuracy.network import Inputs, Network
from benchmarks.accuracy.peers import Infer, Peer
from benchmarks.case import fix_shapes
from benchmarks.peers.base import Unavailable, need
from benchmarks.peers.onnxruntime import first_line

# Of 10,000 by default, which take half an hour a draw here.
ADAROUND_ITERATIONS = 500


def build(
    network: Network,
    data: list[Inputs],
    bits: str,
    folder: Path,
    *,
    equalize: bool,
    rounding: bool,
) -> Infer:
    """Fold batch norms, equalize, simulate, and learn the rounding."""
    aimet = need("aimet_onnx", "aimet-onnx")
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return _build(aimet, network, data, bits, folder, equalize, rounding)
    except Exception as error:
        raise Unavailable(f"AIMET: {type(error).__name__} {first_line(error)}") from None
    finally:
        logging.disable(logging.NOTSET)


def _build(
    aimet: Any,
    network: Network,
    data: list[Inputs],
    bits: str,
    folder: Path,
    equalize: bool,
    rounding: bool,
) -> Infer:
    model = onnx.load(str(network.path))
    initial = {tensor.name for tensor in model.graph.initializer}
    fix_shapes(model, [i for i in model.graph.input if i.name not in initial], data[0])
    simplified = onnx.shape_inference.infer_shapes(model)
    if equalize:
        # Folds batch norms as well.
        need("aimet_onnx.cross_layer_equalization", "aimet-onnx").equalize_model(simplified)
    else:
        folding = need("aimet_onnx.batch_norm_fold", "aimet-onnx")
        folding.fold_all_batch_norms_to_weight(simplified)
    kinds = {"8": aimet.int8, "4": aimet.int4, "2": aimet.int2}
    sim = aimet.QuantizationSimModel(
        simplified,
        param_type=kinds[bits[1]],
        activation_type=kinds[bits[3]],
        quant_scheme="min_max" if bits == "w8a8" else "tf_enhanced",
        providers=["CPUExecutionProvider"],
        path=str(folder),
        session_options_kwargs={"intra_op_num_threads": 1},
    )
    if rounding:
        aimet.apply_adaround(sim, data, ADAROUND_ITERATIONS)
    sim.compute_encodings(data)
    return lambda inputs: sim.session.run(None, inputs)


def rows() -> list[Peer]:
    """Plain, equalized, and with AdaRound."""

    def row(name: str, adds: str, equalize: bool, rounding: bool) -> Peer:
        return Peer(
            name,
            adds,
            "simulation",
            partial(build, equalize=equalize, rounding=rounding),
            ("w4a8", "w4a4") if rounding else ("w8a8", "w4a8", "w4a4"),
        )

    learned = f"CLE and AdaRound of {ADAROUND_ITERATIONS} iterations"
    return [
        row("AIMET", "simulated, as it comes", False, False),
        row("AIMET CLE", "simulated, with equalization", True, False),
        row("AIMET CLE AdaRound", f"simulated, {learned}", True, True),
    ]
