"""What the processor of an ARM Linux machine says it can do."""

from __future__ import annotations

import ctypes
import platform
import sys

# Feature → entry of the auxiliary vector (AT_HWCAP is 16, AT_HWCAP2 is 26) and its bit, from
# Linux's arch/arm64/include/uapi/asm/hwcap.h.
HWCAPS = {"neon": (16, 1), "dotprod": (16, 20), "i8mm": (26, 13)}


def arm_features() -> frozenset[str] | None:
    """Those of :data:`HWCAPS` that this processor has; ``None`` where that cannot be asked.

    LLVM knows processors by their number instead, and takes one that it does not know, or that is
    emulated, for the simplest.
    """
    if platform.machine() not in ("aarch64", "arm64") or sys.platform != "linux":
        return None
    vector = ctypes.CDLL(None).getauxval
    vector.argtypes, vector.restype = [ctypes.c_ulong], ctypes.c_ulong
    words = {word: vector(word) for word, _ in HWCAPS.values()}
    return frozenset(name for name, (word, bit) in HWCAPS.items() if words[word] >> bit & 1)
