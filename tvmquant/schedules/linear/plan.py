"""All decisions about one kernel, in one value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmquant.schedules.linear.geometry import InputPlan
from tvmquant.schedules.linear.isa import InstructionSet
from tvmquant.schedules.linear.tiling import Tiling
from tvmquant.schedules.workload import Workload

# Weights of fewer bytes are not worth fetching ahead.
_PREFETCHED = 64 << 10


@dataclass(frozen=True)
class Plan:
    """Everything that decides the code of one kernel."""

    workload: Workload
    isa: InstructionSet
    input: InputPlan
    tiling: Tiling

    @property
    def words(self) -> int:
        """Words of weights of one output channel: one for every step, or for several."""
        return -(-self.input.steps // (8 // self.workload.w_bits))

    @property
    def prefetch_share(self) -> int:
        """Bytes of the next block's weights that every step of a tile fetches; 0 for none."""
        tiling = self.tiling
        tiles = min(tiling.chunk_tiles, tiling.tiles(self.input.geometry))
        # With one tile a block all weights are read once, as fast as the memory gives them.
        if tiles == 1 or tiling.full_blocks == 1 or self.weight_count < _PREFETCHED:
            return 0
        return -(-sum(tiling.vectors) * self.input.step // tiles)

    @property
    def weight_count(self) -> int:
        """Elements of the packed weights."""
        per = 8 // self.workload.w_bits
        words = -(-self.input.steps // per) * self.input.step
        return self.input.geometry.groups * self.tiling.group_lanes * words

    @property
    def param_count(self) -> int:
        """Elements of the bias and of each requantize parameter."""
        return self.input.geometry.groups * self.tiling.group_lanes

    @property
    def has_table(self) -> bool:
        """Whether the offsets of the reduction steps come from a table."""
        return len(self.input.run_starts) > 1 or self.isa.rolled

    @property
    def border_count(self) -> int:
        """Kinds of pixels by the taps that they leave out, 1 where no pixel leaves any."""
        return len(self.input.borders)

    @property
    def offsets(self) -> np.ndarray:
        """int32: offset of every step, then -1 up to the end of the last word of weights."""
        offsets, per = self.input.offsets, 8 // self.workload.w_bits
        return np.append(offsets, np.full(-len(offsets) % per + 1, -1, np.int32))
