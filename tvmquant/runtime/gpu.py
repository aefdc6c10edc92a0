"""Models for NVIDIA GPUs: whether this machine can run them, and where."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import tvm

from tvmquant.runtime.manifest import Manifest


def cuda_arch(manifest: Manifest) -> str | None:
    """Architecture that a model's kernels were compiled for, ``None`` if it needs no GPU."""
    target = json.loads(manifest.target_json)
    return str(target["arch"]) if target.get("kind") == "cuda" else None


def why_no_gpu(arch: str) -> str | None:
    """Say in one line why this machine cannot run kernels for ``arch``; ``None`` when it can."""
    device = tvm.cuda(0)
    if not device.exist:
        return (
            f"it was compiled for an NVIDIA GPU ({arch}), this machine has none or no driver: "
            "copy it to one that has"
        )
    here, made = _numbers(str(device.compute_version)), _numbers(arch.removeprefix("sm_"))
    # Machine code runs on its own major version, from its minor version on.
    if here[0] != made[0] or here[1] < made[1]:
        return (
            f"it was compiled for {arch}, the GPU of this machine is sm_{here[0]}{here[1]}: "
            f"compile it with target cuda-sm_{here[0]}{here[1]}"
        )
    return None


def _numbers(version: str) -> tuple[int, int]:
    digits = version.replace(".", "").rstrip("a")
    return int(digits[:-1]), int(digits[-1])


def device_for(manifest: Manifest) -> Any:
    """The TVM device that a model's arrays live on."""
    return tvm.cpu() if cuda_arch(manifest) is None else tvm.cuda(0)


def finished(run: Callable[[], Any], device: Any) -> Callable[[], Any]:
    """``run``, returning when the device has done what it was given."""
    if tvm.cpu() == device:
        return run

    def waiting() -> Any:
        result = run()
        device.sync()
        return result

    return waiting
