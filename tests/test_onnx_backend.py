"""ONNX's own node tests of the quantized operators, through tvmquant's own path."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from onnx import ModelProto, TensorProto
from onnx.backend.test.case.test_case import TestCase

import tvmquant
from tvmquant.errors import UnsupportedOperatorError
from tvmquant.frontend import load_model
from tvmquant.frontend.dtypes import REFUSED_TYPES, to_storage

OPERATORS = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearConv",
    "QLinearMatMul",
)


def run_model(model: ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Compile and run a model that is quantized already."""
    result = tvmquant.compile(model)(*inputs)
    return list(result) if isinstance(result, tuple) else [result]


def _collect() -> list[TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases of other operators overflow on purpose
        from onnx.backend.test.loader import load_model_tests

        cases = load_model_tests(kind="node")
    pattern = re.compile("test_(" + "|".join(op.lower() for op in OPERATORS) + ")")
    return [case for case in cases if pattern.match(case.name)]


def _types(model: ModelProto) -> set[int]:
    return {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}


def _refused(case: TestCase) -> bool:
    """Cases with 8- and 4-bit floats."""
    return bool(_types(case.model) & REFUSED_TYPES)


def _stored(value: np.ndarray | TensorProto) -> np.ndarray:
    """Array of a case; 4- and 2-bit integers as the bytes in which tvmquant takes and gives."""
    return to_storage(value) if isinstance(value, TensorProto) else np.asarray(value)


CASES = _collect()
PASSING = [case for case in CASES if not _refused(case)]
REFUSED = [case for case in CASES if _refused(case)]


def test_every_operator_has_cases():
    for operator in OPERATORS:
        assert any(case.name.startswith(f"test_{operator.lower()}") for case in PASSING), operator


@pytest.mark.parametrize("case", PASSING, ids=lambda case: case.name)
def test_node(case):
    for inputs, expected in case.data_sets:
        results = run_model(case.model, [_stored(array) for array in inputs])
        assert len(results) == len(expected)
        for got, want in zip(results, map(_stored, expected)):
            assert got.dtype == want.dtype
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_other_types_are_refused(case):
    with pytest.raises(UnsupportedOperatorError, match=r"node '.+' \(.*Linear\)") as caught:
        load_model(case.model)
    assert re.search("float(8|4)", str(caught.value))
