"""The jobs of a prepared set, the ones that matter most first."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from .kernels import COLD_ROWS, family

Job = dict[str, Any]
# Seconds that a job of small kernels, which are not timed, may take: what hangs costs no more.
_SMALL = 15
# Seconds for one kernel, or one network, of a job that ended its process.
_ALONE = (30, 75)
# Shapes of matrix products that are also measured with engines that take long to start.
_FIRST = 2
PARTS = ("machine", "exact", "gemm", "network", "conv", "slow")


def jobs_of(work: Path, parts: list[str], rounds: int, patience: float = 1.0) -> list[Job]:
    """Jobs for :func:`bare.jobs.run`.

    Parameters
    ----------
    work : Path
        The unpacked set.
    parts : list of str
        Of :data:`PARTS`.
    rounds : int
        Readings of each contender.
    patience : float
        How many times as long as usual jobs may take, as under a memory checker.

    Returns
    -------
    list of dict
        ``kind``, ``part``, ``name``, ``limit`` (seconds after which it is given up), ``alone``
        (the same for one of its contenders) and what the kind needs.
    """
    kernels, networks = _found(work, "case.json"), _found(work, "network.json")
    timed = {"rounds": rounds, "seconds": 12.0, "time": True}
    jobs: list[Job] = []
    if "machine" in parts:
        jobs.append({"kind": "machine", "part": "machine", "name": "machine", "limit": 90})
    if "exact" in parts:
        for folder, about in kernels.items():
            if about["part"] == "exact":
                words = (about["name"], about["precision"], about["residual"])
                job = _kernels("exact", " ".join(filter(None, words)), [folder], _SMALL)
                jobs.append({**job, **timed, "time": False})
        for folder, about in networks.items():
            if about["only_exact"]:
                job = {"kind": "network", "part": "exact", "folders": [folder], "limit": 40}
                name = f"{about['name']} {about['precision']} batch {about['batch']}"
                jobs.append({**job, **timed, "name": name, "batch": about["batch"], "time": False})
    for part in ("gemm", "conv"):
        if part in parts:
            jobs += [{**job, **timed, "peers": "all"} for job in _shapes(kernels, part)]
    jobs += _networks(networks, parts, timed)
    if "slow" in parts:
        for index, job in enumerate(_shapes(kernels, "gemm")):
            # Where it matters: the first shapes, and those with weight-only layers.
            if index < _FIRST or any("weight-only" in folder for folder in job["folders"]):
                slow = {"folders": [], "peers": "all", "which": "slow", "limit": 100}
                jobs.append({**job, **timed, **slow})
    for job in jobs:
        job["alone"] = min(_ALONE[job["kind"] == "network"], job["limit"]) * patience
        job["limit"] *= patience
    order = {part: index for index, part in enumerate(PARTS)}
    return sorted(jobs, key=lambda job: order["slow" if _slow(job) else job["part"]])


def _slow(job: Job) -> bool:
    return job.get("which") == "slow" or "compiled" in (job.get("peers") or ())


def _found(work: Path, name: str) -> dict[str, Any]:
    """Descriptions by folder, in the order in which they were prepared."""
    about = {
        str(path.parent.relative_to(work)): json.loads(path.read_text(encoding="utf-8"))
        for path in work.glob(f"*/*/{name}")
    }
    return dict(sorted(about.items(), key=lambda item: (item[1].get("order", 0), item[0])))


def _kernels(part: str, name: str, folders: list[str], limit: int) -> Job:
    return {"kind": "kernels", "part": part, "name": name, "folders": folders, "limit": limit}


def _shapes(kernels: dict[str, Any], part: str) -> list[Job]:
    """A job a shape: all its precisions take turns with the peers."""
    groups: dict[str, list[str]] = defaultdict(list)
    for folder, about in kernels.items():
        if about["part"] == part:
            groups[about["name"]].append(folder)
    jobs = []
    for name, folders in groups.items():
        job = _kernels(part, name, folders, 75)
        about = kernels[folders[0]]
        shape, w_shape = about["x"]["shape"], about["w_shape"]
        if part == "conv":
            values = about["workload"]
            stride, pad = values["strides"][0], values["padding"][0]
            job["shape"] = {"x_shape": shape, "w_shape": w_shape, "stride": stride, "pad": pad}
        else:
            rows, depth = shape
            sizes = {"rows": rows, "depth": depth, "outputs": w_shape[0]}
            job["shape"] = {**sizes, "cold": rows <= COLD_ROWS}
        jobs.append(job)
    return jobs


def _networks(networks: dict[str, Any], parts: list[str], timed: Job) -> list[Job]:
    groups: dict[tuple[str, int], list[str]] = defaultdict(list)
    for folder, about in networks.items():
        if not about["only_exact"]:
            groups[about["name"], about["batch"]].append(folder)
    jobs = []
    for (name, batch), folders in groups.items():
        job = {"kind": "network", "part": "network", "name": f"{name} batch {batch}", **timed}
        job |= {"network": name, "batch": batch}
        if "network" in parts:
            jobs.append({**job, "folders": folders, "peers": ["eager"], "limit": 150})
        if "slow" in parts:
            jobs.append({**job, "folders": [], "peers": ["compiled"], "limit": 200})
    return jobs


def single(job: Job, work: Path) -> list[Job]:
    """The same contenders one by one, for a job that ended its process."""
    if job["kind"] == "machine":
        return []
    alone = {**job, "limit": job.get("alone", job["limit"])}
    jobs = []
    for folder in job["folders"]:
        if job["kind"] == "network":
            jobs.append({**alone, "folders": [folder], "peers": []})
            continue
        about = json.loads((work / folder / "case.json").read_text(encoding="utf-8"))
        for index, plan in enumerate(about["plans"]):
            own = {"folders": [folder], "plan": index, "family": family(plan), "peers": []}
            jobs.append({**alone, **own})
    if job.get("peers") and job["folders"]:
        jobs.append({**alone, "folders": []})
    return jobs if len(jobs) > 1 else []
