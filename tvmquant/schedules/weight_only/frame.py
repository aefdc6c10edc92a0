"""What the weight-only kernels share: panels of output channels, packing, arguments, loops."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, fields
from math import prod
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.schedules.floating.frame import begin, start_of
from tvmquant.schedules.floating.tiling import block_count, block_lanes, worth_threads
from tvmquant.schedules.linear.tir import Expr, i64
from tvmquant.schedules.space import Config, ConfigError, integers
from tvmquant.schedules.weight_only.plan import Sizes
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device


class PanelKernel:
    """A panel is ``lanes * vectors`` output channels; a tile is some rows of one panel.

    Parameters
    ----------
    workload : Workload
    device : Device
    lanes : int
        32-bit lanes of a vector.
    space : mapping of Sizes to float
        The tiles to choose from with their costs, the default first.
    sizes : Sizes, optional
        The tile to use.

    Raises
    ------
    ConfigError
        If ``sizes`` are not in the space.
    """

    # What a subclass sets before its constructor ends.
    dtype: str
    words: int

    def __init__(
        self,
        workload: Workload,
        device: Device,
        lanes: int,
        space: Mapping[Sizes, float],
        sizes: Sizes | None,
    ) -> None:
        if sizes is not None and sizes not in space:
            raise ConfigError(f"{sizes} does not fit {workload.x_shape} x {workload.w_shape}")
        self.workload, self.device, self._space = workload, device, space
        self.sizes = sizes or next(iter(space))
        self.lanes, self.width = lanes, lanes * self.sizes.vectors
        self.rows = workload.x_shape[0]
        self.outputs, self.depth = workload.w_shape
        self.panels = block_count(self.outputs, self.width)
        self.group = min(workload.group_size or self.depth, self.depth)
        self.groups = -(-self.depth // self.group)
        self.parallel = worth_threads(workload.macs, device)

    # -- tuning ---------------------------------------------------------------------------------
    def configs(self) -> list[Config]:
        """Tiles worth trying, the default first."""
        return [asdict(sizes) for sizes in self._space]

    def with_config(self, config: Config) -> PanelKernel:
        """The same kernel with this tile; ``ConfigError`` if it does not fit."""
        names = [field.name for field in fields(Sizes)]
        return type(self)(self.workload, self.device, Sizes(*integers(config, *names)))

    def estimate(self, config: Config) -> float:
        """Relative cost by instructions."""
        return self._space.get(Sizes(**config), float("inf"))

    # -- constants ------------------------------------------------------------------------------
    def encode(self, groups: np.ndarray) -> np.ndarray:
        """Pack int8 weights ``[..., group]`` into ``[..., words]``."""
        raise NotImplementedError

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """``[weight, bias, scale]`` and, with zero points, ``-scale * zero_point``.

        ``params`` is ``(scale[, zero_point])``, each ``[N, groups]``. The packed weights are
        ``[panels, groups, words, width]``.
        """
        lanes = block_lanes(self.outputs, self.width)
        pad = self.groups * self.group - self.depth
        padded = np.pad(weight, ((0, 0), (0, pad))).reshape(self.outputs, self.groups, self.group)
        words = self.encode(padded)[lanes].transpose(0, 2, 3, 1)
        scale, *zero_point = params
        arrays = [scale] + [-scale * zero.astype(np.float32) for zero in zero_point]
        panels = [a.astype(np.float32)[lanes].transpose(0, 2, 1) for a in arrays]
        packed = [words, bias.astype(np.float32)[lanes], *panels]
        return [np.ascontiguousarray(a).reshape(self.panels, -1) for a in packed]

    # -- code -----------------------------------------------------------------------------------
    def prim_func(self) -> Any:
        """PrimFunc ``(x, weight, bias, scale[, shift], out)``."""
        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                begin(self.name)
                self._arguments()
                self.prepare()
                with (T.parallel if self.parallel else T.serial)(i64(self.panels)) as panel:
                    last = i64(max(self.outputs - self.width, 0))
                    channel = T.bind(tirx.min(panel * self.width, last))
                    self.enter_panel()
                    tiles = -(-self.rows // self.sizes.rows)
                    with T.serial(i64(tiles)) if tiles > 1 else nullcontext(i64(0)) as tile:
                        self.tile(panel, channel, start_of(tile, self.sizes.rows, self.rows))
        return builder.get()

    def prepare(self) -> None:
        """Emit what is done once, before the panels."""

    def enter_panel(self) -> None:
        """Emit what is done at the start of every panel."""

    def tile(self, panel: Expr, channel: Expr, row: Expr) -> None:
        """Emit one tile: the rows from ``row`` on, the output channels from ``channel`` on."""
        raise NotImplementedError

    def _arguments(self) -> None:
        """Declare the arguments and one-dimensional views of them."""
        w, panels = self.workload, self.panels
        words, scales = self.groups * self.words * self.width, self.groups * self.width
        names = ("scale", "shift") if w.zero_points else ("scale",)
        shapes = {"x": w.x_shape, "weight": (panels, words), "bias": (panels, self.width)}
        shapes |= {**dict.fromkeys(names, (panels, scales)), "out": w.out_shape}
        types = {name: self.dtype if name == "weight" else "float32" for name in shapes}
        arguments = {
            name: T.arg(name, T.buffer(tuple(map(i64, shape)), types[name]))
            for name, shape in shapes.items()
        }
        views = {
            name: T.decl_buffer((i64(prod(shapes[name])),), types[name], data=buffer.data)
            for name, buffer in arguments.items()
        }
        self.x, self.weight, self.bias = views["x"], views["weight"], views["bias"]
        self.scale, self.shift, self.out = views["scale"], views.get("shift"), views["out"]
