"""The Relax operators of tvmquant: the QDQ waist and the integer operators below it.

They are ordinary Relax operators (typed, printable, serialisable) registered from Python; their
meaning is :mod:`tvmquant.reference`, their lowering :mod:`tvmquant.schedules`.
"""

from tvmquant.ops import dynamic, half, integer, waist, weight_only
from tvmquant.ops.registry import is_op, make_call, op_name

__all__ = ["dynamic", "half", "integer", "is_op", "make_call", "op_name", "waist", "weight_only"]
