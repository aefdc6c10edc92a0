"""What a model takes besides the time of its runs: loading and memory."""

from __future__ import annotations

from dataclasses import dataclass

from tvmquant.runtime.manifest import Manifest

_MEGABYTE = 1e6


@dataclass(frozen=True)
class Footprint:
    """Time to load and memory of one model.

    Attributes
    ----------
    load_seconds : float or None
        From opening the library until the first run can begin, expansion of constants included;
        ``None`` where nobody measured it.
    expand_seconds : float or None
        The part of it that expands constants.
    constant_bytes : int
        Constants as they are stored.
    expanded_bytes : int
        Copies of constants that kernels hold expanded.
    workspace_bytes : int
        Activations: what the memory plan of a run reserves, outputs included.
    peak_memory_mb : float or None
        Most memory of the whole process since its start, Python and TVM included, in 10**6 bytes.
    """

    load_seconds: float | None
    expand_seconds: float | None
    constant_bytes: int
    expanded_bytes: int
    workspace_bytes: int
    peak_memory_mb: float | None = None

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        *,
        load_seconds: float | None = None,
        expand_seconds: float | None = None,
        peak_memory_mb: float | None = None,
    ) -> Footprint:
        """That of a model, with what was measured of it."""
        return cls(
            load_seconds,
            expand_seconds,
            manifest.weight_bytes,
            manifest.expanded_bytes,
            manifest.workspace_bytes,
            peak_memory_mb,
        )

    @property
    def resident_bytes(self) -> int:
        """Constants, expanded constants and activations: what the model holds in memory."""
        return self.constant_bytes + self.expanded_bytes + self.workspace_bytes

    def __str__(self) -> str:
        parts = []
        if self.load_seconds is not None:
            parts.append(f"loaded in {self.load_seconds:.2f} s")
            if self.expand_seconds:
                parts[0] += f" ({self.expand_seconds:.2f} s of it expanding constants)"
        sizes = [
            f"constants {self.constant_bytes / _MEGABYTE:.2f}",
            f"expanded constants {self.expanded_bytes / _MEGABYTE:.2f}",
            f"activations {self.workspace_bytes / _MEGABYTE:.2f} MB",
        ]
        return "; ".join([*parts, ", ".join(sizes)])
