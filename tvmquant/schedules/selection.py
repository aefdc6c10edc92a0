"""The kernels of one compilation: chosen once for every workload, used by pack and lower."""

from __future__ import annotations

from dataclasses import replace

from tvmquant.schedules.registry import kernels_for, no_kernel
from tvmquant.schedules.space import TuningDatabase
from tvmquant.schedules.workload import Expansion, Kernel, Workload
from tvmquant.targets.device import Device


def expansion_of(kernel: Kernel) -> Expansion | None:
    """What a kernel expands at load time, ``None`` for most."""
    make = getattr(kernel, "expansion", None)
    return make() if make else None


def label_of(kernel: Kernel) -> str:
    """Short name for profiles."""
    return str(getattr(kernel, "label", kernel.name))


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
