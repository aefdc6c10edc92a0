"""Distributions of all tensors of a graph, derived without data.

Where a batch norm made a tensor its statistics hold. Elsewhere they follow from the tensors before:
exactly through elementwise functions and operators that move values, as of independent variables
through sums, products and layers; average pooling keeps the distribution (its inputs are as
good as equal). What else there is (softmax, layer norm …) runs once on random numbers of the
distribution of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.calibration.spread import REACH, Spread
from tvmquant.graph import const_value, name_of, operands
from tvmquant.interpreter import Interpreter
from tvmquant.ops import is_op
from tvmquant.ops.integer import shape_of
from tvmquant.passes.batch_norms import Norms
from tvmquant.passes.fold_affine import is_linear
from tvmquant.passes.input_spread import input_spreads
from tvmquant.passes.linear_spread import linear_spread
from tvmquant.passes.quantized import MOVES
from tvmquant.passes.spread_rules import applied, measured, picked
from tvmquant.passes.tables import TABULAR

Tap = Callable[[relax.Var, Any, Spread], None]
_KEEPS = ("nn.avg_pool2d", "mean", "sum")
_WAIST = ("tvmquant.observe", "tvmquant.quantize", "tvmquant.dequantize")
_SAMPLES = 1 << 14


def propagate(
    mod: tvm.IRModule,
    norms: Norms,
    tap: Tap | None = None,
    input_range: tuple[float, float] | None = None,
) -> dict[str, Spread]:
    """Derive the distribution of every tensor of ``main``.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``simplify`` or ``annotate``.
    norms : mapping of str to ChannelNorm
        What batch norms say of tensors, by name.
    tap : callable, optional
        ``(variable, expression, spread)`` for each parameter and each binding of a tensor, in
        order.
    input_range : tuple of float, optional
        Smallest and largest value of the inputs; without it they are what the first layers'
        batch norms tell, or standard normal.

    Returns
    -------
    dict of str to Spread
        Outputs of ``main`` that are tensors, by name.
    """
    return _Propagation(mod, norms, input_range).run(tap)


class _Propagation:
    def __init__(
        self, mod: tvm.IRModule, norms: Norms, input_range: tuple[float, float] | None
    ) -> None:
        self.interpreter = Interpreter(mod)
        self.graph = self.interpreter.graph
        self.norms = norms
        self.spreads: dict[relax.Var, Any] = {}
        self.arrays: dict[relax.Var, Any] = {}
        # What the first layers say of the network's input, by the tensor that they read.
        self.seen = {} if input_range else input_spreads(self.graph, norms)
        for param in self.graph.params:
            self.spreads[param] = self.seen.get(param) or _input(param, input_range)
        self.random = np.random.default_rng(0)

    def run(self, tap: Tap | None) -> dict[str, Spread]:
        last = {arg: var for var, value in self.graph.bindings for arg in operands(value)}
        dies: dict[relax.Var, list[relax.Var]] = {}
        for arg, var in last.items():
            dies.setdefault(var, []).append(arg)
        for param in self.graph.params if tap is not None else ():
            tap(param, param, self.spreads[param])
        for var, value in self.graph.bindings:
            if any(arg in self.spreads for arg in operands(value)):
                # Infinities of a tail are results here, too.
                with np.errstate(all="ignore"):
                    self.spreads[var] = self._spread(var, value)
                if tap is not None and isinstance(self.spreads[var], Spread):
                    tap(var, value, self.spreads[var])
            else:
                self.arrays[var] = self.interpreter.step(var, value, dict(self.arrays))
            for dead in dies.get(var, ()):
                if dead not in self.graph.output_vars:
                    self.spreads.pop(dead, None)
        found = {out: self.spreads.get(out) for out in self.graph.output_vars}
        return {var.name: spread for var, spread in found.items() if isinstance(spread, Spread)}

    def _spread(self, var: relax.Var, value: Any) -> Any:
        if var in self.seen:
            return self.seen[var]
        if isinstance(value, relax.TupleGetItem):
            whole = self.spreads[value.tuple_value]
            return whole[value.index]
        if isinstance(value, relax.Tuple):
            return [self.spreads.get(field) for field in value.fields]
        norm = self.norms.get(var.name)
        if norm is not None:
            made = Spread.normal(norm.mean, norm.std)
            return made if _is_last_axis(value, made.channels) else made.pooled()
        name = name_of(value)
        if is_op(value, *_WAIST) or (name in _KEEPS and _keeps_channels(value)):
            return self._kept(value, name)
        if name in ("nn.conv2d", "matmul"):
            weight = self._array(value.args[1])
            x = self.spreads.get(value.args[0])
            if weight is not None and x is not None and (name == "matmul" or is_nhwc(value)):
                if weight.ndim in (2, 4):
                    return linear_spread(value, weight, x)
        made = None
        if name in TABULAR:
            made = self._elementwise(value, name)
        elif name in MOVES and (name != "take" or self._array(value.args[1]) is not None):
            made = self._moved(var, value)
        return self._sampled(var, value) if made is None else made

    # -- rules ----------------------------------------------------------------------------------
    def _kept(self, value: relax.Call, name: str | None) -> Spread:
        x = self.spreads[value.args[0]]
        if name != "sum":
            return x if is_op(value, *_WAIST) else Spread(x.points)
        count = int(np.prod(shape_of(value.args[0]))) // max(int(np.prod(shape_of(value))), 1)
        return Spread(x.points * count)

    def _elementwise(self, value: relax.Call, name: str) -> Spread | None:
        spreads = [self.spreads[arg] for arg in operands(value) if arg in self.spreads]
        if any(not isinstance(spread, Spread) for spread in spreads):
            return None
        rank, width = len(shape_of(value)), shape_of(value)[-1:] or [1]
        roots: dict[Any, Spread] = {}
        args: list[Any] = []
        for arg in value.args:
            array = self._array(arg)
            if isinstance(arg, relax.Var) and arg in self.spreads:
                spread = self.spreads[arg]
                roots.setdefault(spread.root, spread)
                args.append(spread)
            elif array is None:
                args.append(arg)
            elif name == "nn.prelu" and int(value.attrs["axis"]) % rank == rank - 1:
                args.append(array.reshape(-1))
            elif name != "nn.prelu" and array.size in (1, *width) and array.size == _last(array):
                args.append(array.reshape(1, -1).astype(np.float64))
            else:
                return None
        return applied(value, name, args, roots)

    def _moved(self, var: relax.Var, value: relax.Call) -> Any:
        """Follow every element: which channel of which argument it is."""
        pool, env, count = [], dict(self.arrays), 0
        for arg in dict.fromkeys(operands(value)):
            spread = self.spreads.get(arg)
            if arg in self.arrays or not isinstance(spread, Spread):
                return None
            shape = shape_of(arg)
            if count + spread.channels >= 1 << 24 or (
                spread.channels != 1 and spread.channels != shape[-1]
            ):
                return None
            # Zero is for padding, which says nothing.
            ids = np.arange(spread.channels) + count + 1
            env[arg] = np.broadcast_to(ids.astype(np.float32), shape).copy()
            pool.append(spread.points)
            count += spread.channels
        points = np.concatenate(pool, 1)
        result = self.interpreter.step(var, value, env)
        if isinstance(result, tuple | list):
            return [picked(points, part) for part in result]
        return picked(points, result)

    def _sampled(self, var: relax.Var, value: Any) -> Any:
        """Run the operator on random numbers; tensors of one root get the same ones."""
        size = max((int(np.prod(_shape(arg))) for arg in operands(value)), default=1)
        rounds = max(1, min(64, _SAMPLES // max(size, 1)))
        results = []
        for _ in range(rounds):
            normal: dict[Any, np.ndarray] = {}
            env = dict(self.arrays)
            for arg in operands(value):
                if arg in self.spreads:
                    env[arg] = self._random(arg, normal)
            results.append(self.interpreter.step(var, value, env))
        if isinstance(results[0], tuple | list):
            return [measured(parts) for parts in zip(*results)]
        return measured(results)

    def _random(self, arg: relax.Var, normal: dict[Any, np.ndarray]) -> Any:
        spread = self.spreads[arg]
        if isinstance(spread, list):
            return tuple(
                self._numbers(part, field, normal)
                for part, field in zip(spread, arg.ty.fields, strict=True)
            )
        return self._numbers(spread, arg.ty, normal)

    def _numbers(self, spread: Spread, ty: Any, normal: dict[Any, np.ndarray]) -> np.ndarray:
        shape = [int(dim) for dim in ty.shape.values]
        key = (spread.root, tuple(shape))
        if key not in normal:
            normal[key] = np.clip(self.random.standard_normal(shape), -REACH, REACH)
        return np.asarray(spread.sample(shape, normal[key])).astype(str(ty.dtype))

    def _array(self, expr: Any) -> np.ndarray | None:
        if isinstance(expr, relax.Var):
            found = self.arrays.get(expr)
            return found if isinstance(found, np.ndarray) else None
        return const_value(expr)


def is_nhwc(call: relax.Call) -> bool:
    """Whether a convolution has its channels last."""
    return str(call.attrs["data_layout"]) == "NHWC"


def _input(param: relax.Var, limits: tuple[float, float] | None) -> Spread:
    low, high = limits or (-REACH, REACH)
    if limits is None and not str(getattr(param.ty, "dtype", "float32")).startswith("float"):
        low, high = 0.0, 255.0
    if limits is None and high == REACH:
        return Spread.normal(0.0, 1.0)
    return Spread.normal((low + high) / 2, (high - low) / 4, low, high)


def _keeps_channels(value: relax.Call) -> bool:
    if name_of(value) == "nn.avg_pool2d":
        return str(value.attrs["layout"]) == "NHWC"
    rank = len(shape_of(value.args[0]))
    axis = value.attrs["axis"]
    axes = range(rank) if axis is None else [int(a) % rank for a in axis]
    return rank - 1 not in axes


def _is_last_axis(value: Any, channels: int) -> bool:
    """Whether the channels of a batch norm are the last axis of the tensor it makes."""
    if is_linear(value):
        return True
    shape = shape_of(value)
    if not shape or shape[-1] != channels:
        return False
    constants = [c for arg in getattr(value, "args", ()) if (c := const_value(arg)) is not None]
    return all(c.size == 1 or c.shape[-1] == channels for c in constants)


def _last(array: np.ndarray) -> int:
    return array.shape[-1] if array.ndim else 1


def _shape(arg: relax.Var) -> list[int]:
    return shape_of(arg) if isinstance(arg.ty, relax.TensorType) else [1]
