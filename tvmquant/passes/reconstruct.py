"""Block-wise reconstruction: the layers of a block are rounded together, after each has been alone.

Blocks go in order; each learns on what the blocks before it really give and is kept only where the
block's output comes nearer to the float one. Needs torch; see ``tvmquant.calibration.brecq``.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.errors import CalibrationWarning, RecipeError
from tvmquant.graph import Builder, Graph, const_value, is_const, name_of, operands, rewrite
from tvmquant.interpreter.interpreter import Environment, Interpreter
from tvmquant.ops import is_op
from tvmquant.ops.waist import channel_bits
from tvmquant.passes.blocks import Block, find_blocks
from tvmquant.passes.correct import Change, apply_changes
from tvmquant.recipe import Recipe

if TYPE_CHECKING:
    from tvmquant.calibration.brecq import BrecqOptions, LayerWeights, Learned

Progress = Callable[[str, int, int], None]


def require_torch(recipe: Recipe) -> None:
    """Raise ``RecipeError`` where the recipe needs torch and there is none."""
    if recipe.rounding == "brecq" and importlib.util.find_spec("torch") is None:
        raise RecipeError("rounding 'brecq' needs torch: pip install 'tvmquant[qat]'")


def reconstruct(
    original: tvm.IRModule,
    quantized: tvm.IRModule,
    samples: Sequence[Sequence[np.ndarray]],
    recipe: Recipe,
    progress: Progress | None = None,
    options: BrecqOptions | None = None,
) -> tvm.IRModule:
    """Learn the rounding of the weights of every block below 8 bits, and what goes with it.

    Parameters
    ----------
    original : tvm.IRModule
        Output of ``annotate``.
    quantized : tvm.IRModule
        Its QDQ form, layers corrected one by one.
    samples : sequence of sequence of np.ndarray
        Inputs of ``main``.
    recipe : Recipe
        With ``bias_correction`` biases may change; ``requantize="power_of_two"`` keeps scales.
    progress : callable, optional
        Called with ``("reconstruct", done, total)``.
    options : BrecqOptions, optional
    """
    return _Reconstruction(original, quantized, recipe, options).run(samples, progress)


class _Reconstruction:
    def __init__(
        self,
        original: tvm.IRModule,
        quantized: tvm.IRModule,
        recipe: Recipe,
        options: BrecqOptions | None,
    ) -> None:
        from tvmquant.calibration.brecq import BrecqOptions

        self.mod, self.recipe = quantized, recipe
        self.options = options or BrecqOptions()
        self.float, self.quant = Interpreter(original), Interpreter(quantized)
        self.by_name = {var.name: var for var, _ in self.float.graph.bindings}
        self.pending = iter(self.float.graph.bindings)
        self.frozen = self._frozen()
        self.constants: Environment = {}
        self.changes: dict[str, Change] = {}
        self.scales: dict[str, np.ndarray] = {}
        self.skipped: dict[str, list[str]] = {}

    def run(
        self, samples: Sequence[Sequence[np.ndarray]], progress: Progress | None
    ) -> tvm.IRModule:
        graph = self.quant.graph
        before, blocks = find_blocks(graph, lambda var: self._weight(var) is not None)
        floats = [dict(zip(self.float.graph.params, arrays)) for arrays in samples]
        quants = [dict(zip(graph.params, arrays)) for arrays in samples]
        sampled = set(graph.params)
        for var, value in before:
            if any(arg in sampled for arg in operands(value)):
                sampled.add(var)
                for env in quants:
                    self.quant.step(var, value, env)
            else:
                # Kept for all blocks; steps drop what dies.
                self.constants[var] = self.quant.step(var, value, dict(self.constants))
        for index, block in enumerate(blocks):
            quants = self._block(block, floats, quants)
            if progress:
                progress("reconstruct", index + 1, len(blocks))
        for reason, names in self.skipped.items():
            warnings.warn(
                f"rounding 'brecq': {reason} cannot be learned through; these layers were rounded "
                f"one by one: {', '.join(names[:5])}"
                + (f" and {len(names) - 5} more" if len(names) > 5 else ""),
                CalibrationWarning,
                stacklevel=4,
            )
        return _with_scales(apply_changes(self.mod, self.changes), self.scales)

    def _block(
        self, block: Block, floats: list[Environment], quants: list[Environment]
    ) -> list[Environment]:
        from tvmquant.interpreter.torch_ops import NotDifferentiableError

        inputs = [v for v in block.inputs() if v not in self.constants]
        # The float value of what enters is about to be dropped.
        real = {
            v: np.concatenate([env[self.by_name[v.name]] for env in floats])
            for v in inputs
            if v.name in self.by_name and self.by_name[v.name] in floats[0]
        }
        try:
            target = self._float_output(block, floats)
            quantized = {v: _stacked(v, quants) for v in inputs}
            output = self._learn(block, quantized, real, target)
        except NotDifferentiableError as error:
            names = [str(v.name) for v in block.layers]
            self.skipped.setdefault(str(error), []).extend(names)
            for env in quants:
                env.update(self.constants)
                for var, value in block.bindings:
                    self.quant.step(var, value, env)
            return quants
        ends = set(inputs) - self._read_later(block)
        parts = np.split(output, len(quants))
        return [
            {**{v: a for v, a in env.items() if v not in ends}, block.output: part}
            for env, part in zip(quants, parts)
        ]

    def _learn(
        self,
        block: Block,
        quantized: dict[relax.Var, np.ndarray],
        real: dict[relax.Var, np.ndarray],
        target: np.ndarray,
    ) -> np.ndarray:
        from tvmquant.calibration.brecq import BlockRunner, learn_block

        weights = {}
        for var in block.layers:
            layer = self._layer_weights(var)
            if layer is not None:
                weights[self.quant.graph.values[var].args[1]] = layer
        read = {arg for _, value in block.bindings for arg in operands(value)}
        constants = {v: a for v, a in self.constants.items() if v in read}
        runner = BlockRunner(block, constants, weights, self.frozen, self.options)
        shifted = block.layers if self.recipe.bias_correction == "empirical" else []
        learned, output = learn_block(runner, quantized, real, target, shifted)
        self._note(block, learned)
        return output

    def _note(self, block: Block, learned: Learned) -> None:
        graph = self.quant.graph
        for var in block.layers:
            change = Change(shift=learned.shift.get(var.name))
            weight = graph.values[var].args[1]
            if weight.name in learned.q:
                change.q = learned.q[weight.name]
                change.scale = const_value(graph.values[weight].args[1])
            self.changes[var.name] = change
        for var, value in block.bindings:
            if var.name in learned.scale:
                factor = learned.scale[var.name]
                self.scales[var.name] = const_value(value.args[1]) * np.float32(factor)

    # -- the float network ----------------------------------------------------------------------
    def _float_output(self, block: Block, floats: list[Environment]) -> np.ndarray:
        """Run the float network up to the block's output."""
        from tvmquant.interpreter.torch_ops import NotDifferentiableError

        name = str(block.output.name)
        if name not in self.by_name:
            # A correction that was added behind a layer.
            name = name.rpartition("#")[0]
        wanted = self.by_name.get(name)
        outputs = self.quant.graph.output_vars & {v for v, _ in block.bindings}
        if wanted is None or not outputs <= {block.output}:
            raise NotDifferentiableError("a block with several results")
        for var, value in self.pending:
            for env in floats:
                self.float.step(var, value, env)
            if var.same_as(wanted):
                return _stacked(wanted, floats)
        raise NotDifferentiableError("a block that has no float counterpart")

    # -- the quantized network ------------------------------------------------------------------
    def _weight(self, var: relax.Var) -> relax.Call | None:
        """Dequantization of the constant weights of a layer."""
        graph = self.quant.graph
        call = graph.values[var]
        if name_of(call) not in ("nn.conv2d", "matmul"):
            return None
        weight = graph.value(call.args[1])
        found = is_op(weight, "tvmquant.dequantize") and is_const(weight.args[0])
        return weight if found else None

    def _layer_weights(self, var: relax.Var) -> LayerWeights | None:
        """Weights to learn; ``None`` for those that stay: 8 bits, or scales of groups."""
        from tvmquant.calibration.brecq import LayerWeights

        weight = self._weight(var)
        bits = np.array(channel_bits(weight) or [int(weight.attrs["bits"])])
        real = self._real_weight(var)
        if bits.min() >= 8 or int(weight.attrs["block_size"]) or real is None:
            return None
        q, scale = const_value(weight.args[0]), const_value(weight.args[1])
        shape = [1] * q.ndim
        shape[int(weight.attrs["axis"]) % q.ndim] = -1
        binary = bool((bits == 1).all())
        low = -np.ones_like(bits) if binary else -(2 ** (bits - 1))
        high = np.ones_like(bits) if binary else 2 ** (bits - 1) - 1
        return LayerWeights(
            real, q, scale.reshape(shape), low.reshape(shape), high.reshape(shape), binary
        )

    def _real_weight(self, var: relax.Var) -> np.ndarray | None:
        graph = self.float.graph
        if var.name not in self.by_name:
            return None
        weight = graph.values[self.by_name[var.name]].args[1]
        value = graph.value(weight)
        return const_value(value.args[0] if is_op(value, "tvmquant.observe_weight") else value)

    def _frozen(self) -> set[str]:
        """Quantize nodes whose scale stays: 8 bits, shared ranges, powers of two."""
        shared = {
            f"{var.name}/int"
            for var, value in self.float.graph.bindings
            if is_op(value, "tvmquant.observe") and str(value.attrs["group"])
        }
        for var, value in self.quant.graph.bindings:
            if is_op(value, "tvmquant.quantize"):
                coarse = int(value.attrs["bits"]) < 8 and is_const(value.args[1])
                if not coarse or self.recipe.requantize == "power_of_two":
                    shared.add(str(var.name))
        return shared

    def _read_later(self, block: Block) -> set[relax.Var]:
        graph, own = self.quant.graph, {v for v, _ in block.bindings}
        return {
            var
            for var in block.inputs()
            if var in graph.output_vars or any(u not in own for u in graph.users.get(var, ()))
        }


def _stacked(var: relax.Var, envs: list[Environment]) -> np.ndarray:
    from tvmquant.interpreter.torch_ops import NotDifferentiableError

    arrays = [env[var] for env in envs]
    if not isinstance(arrays[0], np.ndarray) or not arrays[0].ndim:
        raise NotDifferentiableError("a tuple or a scalar between blocks")
    stacked = np.concatenate(arrays)
    if stacked.dtype == np.float32 and not np.isfinite(stacked).all():
        stacked = np.nan_to_num(stacked, nan=0.0, posinf=0.0, neginf=0.0)
    return stacked


def _with_scales(mod: tvm.IRModule, scales: dict[str, np.ndarray]) -> tvm.IRModule:
    """Other scales in quantize nodes, by name, and in what reads them."""
    graph = Graph(mod)

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        if var.name in scales and is_op(value, "tvmquant.quantize"):
            named = var.name
        elif is_op(value, "tvmquant.dequantize") and not is_const(value.args[0]):
            named = graph.values[var].args[0].name
        else:
            return None
        if named not in scales:
            return None
        scale = relax.const(np.asarray(scales[named], np.float32))
        return relax.Call(value.op, [value.args[0], scale, value.args[2]], value.attrs)

    return rewrite(mod, visit) if scales else mod
