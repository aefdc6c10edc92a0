"""One job in the process that has the GPU: rows of results."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

from . import peers
from .kernels import Prepared
from .networks import PreparedNetwork, torch_network
from .runtime import Processor, TorchGpu
from .timing import Contender, take_turns, told

Row = dict[str, Any]
_PEAK = (8192, 8192, 8192)
_COPIED = 4 << 30


def run(device: Processor, job: Row, work: Path) -> list[Row]:
    """Do it; every row has ``part``, ``name`` and ``contender``.

    Parameters
    ----------
    device : Processor
    job : dict
        See :func:`benchmarks.gpu.measure.jobs_of`.
    work : Path
        The unpacked set.
    """
    done: list[Row] = {"machine": _machine, "network": _networks}.get(job["kind"], _kernels)(
        device, job, work
    )
    return [{"part": job["part"], "name": job["name"], **row} for row in done]


def _machine(device: Processor, job: Row, work: Path) -> list[Row]:
    row: Row = {"contender": "machine", "device": device.name, "python": platform.python_version()}
    if not isinstance(device, TorchGpu):
        return [row]
    torch = device.torch
    facts = torch.cuda.get_device_properties(0)
    row |= {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "multiprocessors": facts.multi_processor_count,
        "l2_bytes": facts.L2_cache_size,
        "memory_bytes": facts.total_memory,
    }
    size = min(_COPIED, facts.total_memory // 8)
    source = torch.randint(0, 256, (size,), device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    contenders = [Contender("copy", lambda copy: target.copy_(source))]
    for name, contender in peers.made(peers.gemm_peers(torch, *_PEAK, False)):
        if isinstance(contender, Contender):
            contenders.append(contender)
        else:
            row[f"error {name}"] = told(contender)
    times = {r["contender"]: r.get("us") for r in take_turns(device, contenders, 9, 20)}
    # Bytes read and written.
    row["copy_gbs"] = times["copy"] and 2 * source.numel() / times["copy"] / 1e3
    macs = _PEAK[0] * _PEAK[1] * _PEAK[2]
    for name in ("torch int8", "torch fp16", "torch bf16"):
        if times.get(name):
            row[f"{name.split()[1]}_tops"] = 2 * macs / times[name] / 1e6
    return [row]


def _kernels(device: Processor, job: Row, work: Path) -> list[Row]:
    rows: list[Row] = []
    contenders: list[Contender] = []
    for folder in job["folders"]:
        prepared = Prepared(work / folder, device)
        same = {key: prepared.about[key] for key in ("precision", "macs", "workload")}
        same |= {"folder": folder, "contender": "tvmquant"}
        for row, contender in prepared.contenders(job.get("plan"), job.get("avoid", ())):
            if contender is None or not job["time"]:
                rows.append({**same, **row})
            else:
                contender.about = {**same, **row}
                contenders.append(contender)
    makers = _makers(device, job)
    for name, made in peers.made(makers):
        if isinstance(made, Contender):
            contenders.append(made)
        else:
            rows.append({"contender": name, "error": told(made)})
    rows += take_turns(device, contenders, job["rounds"], job["seconds"]) if contenders else []
    return rows


def _makers(device: Processor, job: Row) -> dict[str, peers.Maker]:
    names = job.get("peers")
    if not names or not isinstance(device, TorchGpu):
        return {}
    torch = device.torch
    if job["part"] == "conv":
        found = peers.conv_peers(torch, **job["shape"])
    else:
        kinds = {"usual": peers.gemm_peers, "slow": peers.slow_peers}
        found = kinds[job.get("which", "usual")](torch, **job["shape"])
    return found if names == "all" else {name: found[name] for name in names if name in found}


def _networks(device: Processor, job: Row, work: Path) -> list[Row]:
    rows, contenders = [], []
    for folder in job["folders"]:
        network = PreparedNetwork(work / folder, device)
        same = {key: network.about[key] for key in ("precision", "batch", "macs")}
        same |= {"contender": "tvmquant", "folder": folder}
        try:
            row = {**same, **network.check()}
        except Exception as error:
            rows.append({**same, "exact": None, "error": told(error)})
            continue
        if row["exact"] and job["time"]:
            contender = network.contender()
            contender.about = row
            contenders.append(contender)
        else:
            rows.append(row)
    for kind in job.get("peers") or () if isinstance(device, TorchGpu) else ():
        name = f"torch fp16 {kind}"
        try:
            torch = device.torch
            peer = torch_network(torch, job["network"], job["batch"], kind == "compiled")
            contenders.append(peer)
        except Exception as error:
            rows.append({"contender": name, "batch": job["batch"], "error": told(error)})
    rows += take_turns(device, contenders, job["rounds"], job["seconds"]) if contenders else []
    return rows


def wheels(folder: Path) -> None:
    """Make unpacked wheels importable, behind what is installed."""
    if folder.is_dir():
        sys.path.append(str(folder))


def healthy(device: Processor) -> bool:
    """Whether the device still works: an invalid access ends a CUDA context for good."""
    try:
        device.sync()
        if isinstance(device, TorchGpu):
            device.torch.zeros(1, device="cuda").item()
            device.torch.cuda.empty_cache()
    except Exception:
        return False
    return True
