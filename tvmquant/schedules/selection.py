"""The kernels of one compilation: chosen once for every workload, used by pack and lower."""

from __future__ import annotations

from dataclasses import replace

from tvmquant.schedules.registry import kernels_for, no_kernel
from tvmquant.schedules.space import TuningDatabase
from tvmquant.schedules.widened import WidenedKernel
from tvmquant.schedules.workload import Expansion, Kernel, Workload
from tvmquant.targets.device import Device


def expansion_of(kernel: Kernel) -> Expansion | None:
    """What a kernel expands at load time, ``None`` for most."""
    make = getattr(kernel, "expansion", None)
    return make() if make else None


def label_of(kernel: Kernel) -> str:
    """Short name for profiles."""
    return str(getattr(kernel, "label", kernel.name))


def cycles_of(kernel: Kernel) -> float | None:
    """Cycles that the kernel's own model expects, of one core; ``None`` if it has no model."""
    cycles = getattr(kernel, "cycles", None)
    return None if cycles is None else float(cycles)


# Fewer bits pay if they save that much.
_PAYS = 0.97


class KernelTable:
    """Chooses kernels for a device and remembers the choice.

    Parameters
    ----------
    device : Device
    expand : bool
        Whether kernels may hold constants in memory that are larger than in the file.
    database : TuningDatabase, optional
        Measurements to choose by.
    """

    def __init__(
        self, device: Device, *, expand: bool = True, database: TuningDatabase | None = None
    ) -> None:
        self.device = device
        self.expand = expand
        self.database = database
        self._chosen: dict[Workload, Kernel] = {}

    def __getitem__(self, workload: Workload) -> Kernel:
        """Kernel of a workload.

        Raises
        ------
        TvmQuantError
            If no rule covers the workload.
        """
        if workload not in self._chosen:
            self._chosen[workload] = self._choose(workload)
        return self._chosen[workload]

    def _choose(self, workload: Workload) -> Kernel:
        if workload.residual:
            # The kernel that is best without the addition: measurements know only that.
            return self[replace(workload, residual="")].with_residual(workload.residual)
        for kernel in kernels_for(workload, self.device, self.database):
            if self.expand or expansion_of(kernel) is None:
                return kernel
        raise no_kernel(workload, self.device)

    def note(self, workload: Workload) -> str:
        """What a profile should say about the kernel of a workload; empty where fewer bits pay.

        By measured times where the database has both, else by the kernels' own models.
        """
        name = f"w{workload.w_bits}a{workload.x_bits}"
        if name == "w8a8" or workload.op.endswith(("_float", "_weight_only")):
            return ""
        workload = replace(workload, residual="")
        whole = _at_8_bits(workload)
        if isinstance(self[workload], WidenedKernel):
            return "fewer bits do not pay here: 8-bit kernel"
        own, usual, how = self._measured(workload), self._measured(whole), "measured"
        if own is None or usual is None:
            own, usual, how = cycles_of(self[workload]), cycles_of(self[whole]), "estimated"
        if own is None or usual is None or own < _PAYS * usual:
            return ""
        return f"{name} is no faster than w8a8 on this processor ({how})"

    def _measured(self, workload: Workload) -> float | None:
        seconds = getattr(self.database, "seconds", None)
        return None if seconds is None else seconds(workload, self.device)


def _at_8_bits(workload: Workload) -> Workload:
    """The same layer at 8 bits; of what its weights prove nothing is known but their size."""
    bound = workload.max_abs_sum
    larger = None if bound is None else bound << (8 - max(2, workload.w_bits))
    return replace(workload, w_bits=8, x_bits=8, no_saturation=False, max_abs_sum=larger)
