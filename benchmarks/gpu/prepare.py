"""Everything that is to be measured, compiled on a machine that needs no GPU."""

from __future__ import annotations

import hashlib
import json
import lzma
import multiprocessing
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import tvmquant
from benchmarks.gpu import slim
from benchmarks.gpu.cases import PARTS, Case
from benchmarks.gpu.kernels import build
from benchmarks.gpu.networks import NetworkCase, build_network, network_cases
from tvmquant.runtime.manifest import current_versions
from tvmquant.targets import get_device

# Large enough for networks of the same weights to share them.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 3, "dict_size": 64 << 20}]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One case to build, for another process.

    Attributes
    ----------
    case : Case or NetworkCase
    target : str
    folder : Path
    plans : int
        Kernels of a workload at most.
    order : int
        Place among all.
    stamp : str
        What is there with another one is built again; empty: whatever it is, it is kept.
    """

    case: Case | NetworkCase
    target: str
    folder: Path
    plans: int
    order: int
    stamp: str


def prepare(
    out: Path,
    target: str,
    parts: Sequence[str],
    *,
    plans: dict[str, int],
    efficientnet: Path | None,
    python: str,
    peers: bool,
    jobs: int,
    only: str,
    keep: bool,
    tell: Tell,
) -> None:
    """Build the cases of some parts beside ``out`` and pack them into it.

    Parameters
    ----------
    out : Path
        Folder of ``set.json``, ``*.tar.xz`` and ``wheels``. What is built lies in
        ``out`` + ``.work`` and is built again only when sources have changed.
    target : str
        For example ``cuda-sm_90``.
    parts : sequence of str
        Of ``exact``, ``gemm``, ``conv``, ``networks``; ``runtime`` is always packed.
    plans : dict of str to int
        Kernels of a workload, by part.
    efficientnet : Path or None
        ONNX file of EfficientNet-Lite0.
    python : str
        Version on the other machine; empty: this set is measured where tvmquant is installed.
    peers : bool
        Whether to take other engines' wheels along.
    jobs : int
        Processes.
    only : str
        Only cases whose key has this in it.
    keep : bool
        Not even then.
    tell : callable
        Is given a line at a time.
    """
    work = out.with_name(out.name + ".work")
    cases: list[Case | NetworkCase] = [
        case for part in parts if part in PARTS for case in PARTS[part]()
    ]
    cases += [case for case in network_cases(efficientnet) if case.part in parts]
    stamp = source_stamp()

    def job(case: Case | NetworkCase, index: int) -> Job:
        count, own = plans.get(case.part, 1), ""
        if not keep:
            own = f"{stamp} {target} {count if isinstance(case, Case) else ''}"
        return Job(case, target, work / case.part / case.key, count, index, own)

    todo = [job(case, index) for index, case in enumerate(cases) if only in case.key]
    work.mkdir(parents=True, exist_ok=True)
    failed = _build_all(todo, jobs, tell)
    out.mkdir(parents=True, exist_ok=True)
    if python:
        slim.write_runtime(work / "runtime", python)
        pack(work / "runtime", [work / "runtime"], out / "runtime.tar.xz")
    if python and peers:
        failed += slim.write_peers(out / "wheels", python)
    for part in parts:
        folders = [job.folder for job in todo if job.case.part == part and job.folder.is_dir()]
        pack(work / part, folders, out / f"{part}.tar.xz")
    device = get_device(target)
    about = {
        "target": target,
        "features": sorted(device.features),
        "versions": current_versions(),
        "sources": stamp,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "parts": sorted(path.name.partition(".")[0] for path in out.glob("*.tar.xz")),
        "failed": failed,
    }
    (out / "set.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        tell(f"{path.stat().st_size / 1e6:7.2f} MB  {path.relative_to(out)}")
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    tell(f"{size / 1e6:7.2f} MB in all")


def _build_all(todo: Sequence[Job], jobs: int, tell: Tell) -> list[str]:
    """Build; returns what failed."""
    failed = []
    for number, (job, result) in enumerate(_results(todo, jobs), 1):
        key = f"[{number}/{len(todo)}] {job.case.key}"
        try:
            tell(f"{key}: {result()}")
        except Exception as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            failed.append(f"{job.case.key}: {told[:300]}")
            tell(f"{key} failed: {told[:200]}")
    return failed


def _results(todo: Sequence[Job], jobs: int) -> Iterator[tuple[Job, Callable[[], str]]]:
    """Every job, as it is done, and a function that returns what to say of it."""
    if jobs == 1:
        for job in todo:
            yield job, partial(build_one, job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_one_thread) as pool:
        running = {pool.submit(build_one, job): job for job in todo}
        for future in as_completed(running):
            yield running[future], future.result


def _one_thread() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def build_one(job: Job) -> str:
    """Build one case; what to say of it."""
    for path in job.folder.glob("*.json"):
        if job.stamp and json.loads(path.read_text(encoding="utf-8")).get("stamp") != job.stamp:
            path.unlink()
    if isinstance(job.case, NetworkCase):
        about = build_network(job.case, job.target, job.folder)
        said, path = f"{len(about['kernels'])} kinds of kernels", job.folder / "network.json"
    else:
        about = build(job.case, get_device(job.target), job.folder, job.plans, 1)
        said, path = f"{len(about['plans'])} kernels", job.folder / "case.json"
        said += "".join(f"; {f['error']}" for f in about["failed"])
    own = {"order": job.order} | ({"stamp": job.stamp} if job.stamp else {})
    if about | own != about:
        path.write_text(json.dumps(about | own), encoding="utf-8")
    return said


def source_stamp() -> str:
    """A digest of all that makes kernels and their data."""
    package, own = Path(tvmquant.__file__).parent, Path(__file__).parent
    files = [*package.glob("schedules/**/*.py"), *package.glob("assets/cuda/*")]
    files += [*package.glob("targets/*.py"), *package.glob("build*.py"), own / "bare" / "data.py"]
    files += [own / f"{name}.py" for name in ("cases", "expected", "kernels", "networks", "shapes")]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def pack(base: Path, folders: Iterable[Path], path: Path) -> None:
    """Archive of folders under ``base``, named from its parent on."""
    part = path.with_name(path.name + ".part")
    with (
        lzma.open(part, "wb", format=lzma.FORMAT_XZ, filters=_FILTERS) as stream,
        tarfile.open(fileobj=stream, mode="w") as tar,
    ):
        for folder in folders:
            tar.add(folder, str(folder.relative_to(base.parent)), filter=_plain)
    part.replace(path)


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info
