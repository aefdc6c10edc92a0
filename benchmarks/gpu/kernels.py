"""One workload as a library of several kernels, with their arrays, in a folder."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from benchmarks.gpu import expected
from benchmarks.gpu.bare import data
from benchmarks.gpu.cases import Case
from tvmquant.build import compile_module
from tvmquant.runtime.link import export_library
from tvmquant.schedules.registry import resolve_rule, rules_key
from tvmquant.schedules.selection import expansion_of, label_of
from tvmquant.schedules.space import configured
from tvmquant.schedules.workload import Kernel
from tvmquant.targets.device import Device
from tvmquant.tuning.candidates import Candidate, candidates
from tvmquant.tuning.record import workload_to_dict

# What is expected to take so much longer than the best is not tried.
_WORSE = 2.0


def choose(found: Sequence[Candidate], count: int, worse: float = _WORSE) -> list[Candidate]:
    """Candidates to measure: defaults, every kind, the best by estimate, and different ones.

    Parameters
    ----------
    found : sequence of Candidate
        As :func:`tvmquant.tuning.candidates.candidates` returns them.
    count : int
    worse : float
        How many times as long as the best a candidate may be expected to take.
    """
    chosen = [c for c in found if c.default]
    known = [c for c in found if c.estimate is not None and c not in chosen]
    ranked = sorted(known, key=lambda c: c.estimate or 0.0)
    best = ranked[0].estimate if ranked else 0.0
    near = [c for c in ranked if c.estimate <= worse * (best or 1.0)]
    seen = {kind for c in chosen for kind in _kinds(c)}
    for candidate in list(near):
        if len(chosen) < count and not _kinds(candidate) <= seen:
            chosen.append(candidate)
            near.remove(candidate)
            seen |= _kinds(candidate)
    # Neighbours by estimate are often twins: two of three places are for the unlike.
    while near and len(chosen) < count:
        unlike = [c for c in near if all(_distance(c, other) >= 2 for other in chosen)]
        take = unlike if unlike and len(chosen) % 3 else near
        chosen.append(take[0])
        near.remove(take[0])
    return chosen[: max(count, 1)]


def _kinds(candidate: Candidate) -> set[tuple[Any, ...]]:
    """What a kernel does differently, besides its sizes: switches, and work that is shared."""
    kinds: set[tuple[Any, ...]] = {(candidate.rule,)}
    for key, value in candidate.config.items():
        if isinstance(value, bool | str) or key == "producers":
            kinds.add((candidate.rule, key, value))
        elif key in ("slices", "splits"):
            kinds.add((candidate.rule, key, value > 1))
    return kinds


def _distance(one: Candidate, other: Candidate) -> int:
    if one.rule != other.rule:
        return 9
    keys = set(one.config) | set(other.config)
    return sum(one.config.get(key) != other.config.get(key) for key in keys)


def build(case: Case, device: Device, folder: Path, plans: int, seed: int) -> dict[str, Any]:
    """Write ``case.json``, ``arrays.npz`` and ``kernels.so``; done before: nothing.

    Parameters
    ----------
    case : Case
    device : Device
    folder : Path
        Written beside and renamed.
    plans : int
        Kernels at most.
    seed : int
        Of the arrays.

    Returns
    -------
    dict
        What is in ``case.json``.
    """
    done = folder / "case.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    arrays = expected.small(case, seed) if case.part == "exact" else expected.large(case, seed)
    kernels, failed = _kernels(case, device, plans)
    work = folder.with_name(folder.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    kernels, more = _compile(kernels, device, work / "kernels.so")
    store = _Store()
    described = [_describe(store, i, *entry, arrays) for i, entry in enumerate(kernels)]
    workload = case.workload
    about = {
        "part": case.part,
        "name": case.name,
        "precision": case.precision,
        "residual": case.residual,
        "workload": workload_to_dict(workload),
        "w_shape": workload.w_shape,
        "device": device.name,
        "macs": workload.macs,
        "plans": described,
        "failed": failed + more,
        "after": {key: store.add(value) for key, value in arrays.after.items()},
        "out": [workload.out_shape, workload.out_dtype],
        "x": {"seed": seed, "shape": workload.x_shape, "bits": workload.x_bits},
    }
    if case.part == "exact":
        about["x"] = store.add(arrays.x)
    about["check"] = _check(store, case, arrays)
    np.savez(work / "arrays.npz", **store.arrays)
    (work / "case.json").write_text(json.dumps(about), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)
    return about


Entry = tuple[Candidate, Kernel]


def _kernels(case: Case, device: Device, plans: int) -> tuple[list[Entry], list[dict[str, Any]]]:
    workload, made, failed = case.workload, [], []
    key = rules_key(workload.op, device)
    worse = math.inf if case.part == "exact" else _WORSE
    for candidate in choose(candidates(workload, device), plans, worse):
        try:
            kernel = resolve_rule(key, candidate.rule)(workload, device)
            kernel = configured(kernel, candidate.config)
            if case.residual:
                kernel = kernel.with_residual(case.residual)
            made.append((candidate, kernel))
        except Exception as error:
            failed.append(_failure(candidate, error))
    if not made and not failed:
        failed.append({"rule": "", "config": {}, "error": "no rule covers this workload"})
    return made, failed


def _failure(candidate: Candidate, error: Exception) -> dict[str, Any]:
    told = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return {"rule": candidate.rule, "config": dict(candidate.config), "error": told[:300]}


def _functions(kernels: Sequence[Entry]) -> dict[str, Any]:
    functions = {}
    for index, (_, kernel) in enumerate(kernels):
        name = f"k{index}"
        functions[name] = kernel.prim_func().with_attr("global_symbol", name)
        expansion = expansion_of(kernel)
        if expansion is not None:
            functions[f"e{index}"] = expansion.func.with_attr("global_symbol", f"e{index}")
    return functions


def _compile(
    kernels: list[Entry], device: Device, path: Path
) -> tuple[list[Entry], list[dict[str, Any]]]:
    """All in one library; the ones that do not compile are left out and named."""
    if not kernels:
        return [], []
    try:
        _export(kernels, device, path)
        return kernels, []
    except Exception as error:
        if len(kernels) == 1:
            return [], [_failure(kernels[0][0], error)]
    good, failed = [], []
    for entry in kernels:
        _, reasons = _compile([entry], device, path)
        failed += reasons
        if not reasons:
            good.append(entry)
    if good:
        _export(good, device, path)
    return good, failed


def _export(kernels: Sequence[Entry], device: Device, path: Path) -> None:
    export_library(compile_module(tvm.IRModule(_functions(kernels)), device), path)


class _Store:
    """Arrays by name, each one once, and those that repeat as one period."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._known: dict[tuple[Any, ...], dict[str, Any]] = {}

    def add(self, array: np.ndarray) -> dict[str, Any]:
        flat = np.ascontiguousarray(array).reshape(-1)
        part = _period(flat)
        key = (flat.dtype.str, array.shape, hash(part.tobytes()))
        if key not in self._known:
            name = f"a{len(self.arrays)}"
            self.arrays[name] = part
            self._known[key] = {"array": name, "shape": array.shape}
        return self._known[key]


def _period(flat: np.ndarray) -> np.ndarray:
    """The shortest start (of those tried) that the array repeats."""
    for parts in (512, 256, 128, 64, 32, 16, 8, 4, 2):
        if flat.size > 4096 * parts and flat.size % parts == 0:
            rows = flat.reshape(parts, -1)
            if (rows == rows[0]).all():
                return rows[0]
    return flat


def _describe(
    store: _Store, index: int, candidate: Candidate, kernel: Kernel, arrays: expected.Arrays
) -> dict[str, Any]:
    packed = kernel.pack(arrays.weight, arrays.bias, arrays.params)
    expansion = expansion_of(kernel)
    return {
        "function": f"k{index}",
        "rule": candidate.rule,
        "config": dict(candidate.config),
        "default": candidate.default,
        "estimate": candidate.estimate,
        "label": label_of(kernel),
        "arrays": [store.add(array) for array in packed],
        "expand": expansion
        and {"function": f"e{index}", "inputs": expansion.inputs, "outputs": expansion.outputs},
    }


def _check(store: _Store, case: Case, arrays: expected.Arrays) -> dict[str, Any]:
    if arrays.bound is not None:
        return {"whole": store.add(arrays.expected), "bound": store.add(arrays.bound)}
    if arrays.rows is None:
        return {"whole": store.add(arrays.expected)}
    return {
        "rows": arrays.rows.tolist(),
        "digests": data.row_digests(arrays.expected),
        "full": case.workload.op == "matmul"
        and {
            "bias": store.add(arrays.bias),
            "multiplier": store.add(arrays.params[0]),
            "w_shape": case.workload.w_shape,
            "w_bits": case.workload.w_bits,
        },
    }
