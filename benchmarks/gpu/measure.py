"""Compare and time what ``python -m benchmarks.gpu prepare`` made, on the machine with the GPU.

    python benchmarks/gpu/measure.py FOLDER -o results.json

Needs Python, NumPy and a driver; PyTorch for times by events and for the other engines. Prints a
table last. What fails is a row with its error.
"""

from __future__ import annotations

import argparse
import json
import lzma
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter, deque
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bare.planning import PARTS, jobs_of, single
from bare.table import final_table
from bare.worker import StartError, Worker, WorkerError, serve

# Processes that kernels of one family may end before the others are not run any more.
_LOST = 2
# Seconds with which a job is begun at least.
_WORTH = 20


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 if nothing could be done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="what prepare wrote")
    parser.add_argument("-o", dest="out", type=Path, required=True, help="JSON of the results")
    parser.add_argument("--parts", default=",".join(PARTS), help="default %(default)s")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing afterwards")
    parser.add_argument("--rounds", type=int, default=9, help="readings of each contender")
    parser.add_argument("--patience", type=float, default=1.0, help="factor of all time limits")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"unknown parts {', '.join(sorted(unknown))}: use {','.join(PARTS)}")
    about = options.folder / "set.json"
    if not about.is_file():
        parser.error(f"{options.folder} has no set.json: run python -m benchmarks.gpu prepare")
    described = json.loads(about.read_text(encoding="utf-8"))
    if options.worker:
        cuda = described["target"].startswith("cuda")
        serve(options.worker, options.worker / "runtime", cuda)
        return 0
    start = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="tvmquant-gpu-"))
    try:
        unpack(options.folder, work)
        jobs = jobs_of(work, options.parts.split(","), options.rounds, options.patience)
        command = [sys.executable, __file__, str(options.folder), "-o", "-"]
        worker = Worker([*command, "--worker", str(work)])
        results = {"format": 1, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "set": described}
        results |= _run(worker, jobs, work, start + options.minutes * 60, results, options.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(final_table(results))
    return 0 if any("error" not in row for row in results["rows"]) else 1


def unpack(folder: Path, work: Path) -> None:
    """The archives of a set, and its wheels, into ``work``."""
    for archive in sorted(folder.glob("*.tar.xz")):
        with lzma.open(archive) as stream, tarfile.open(fileobj=stream) as tar:
            tar.extractall(work, filter="data")
    for wheel in sorted(folder.glob("wheels/*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(work / "peers")


def _run(
    worker: Worker,
    jobs: list[dict[str, Any]],
    work: Path,
    end: float,
    results: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Rows of all jobs; after each one they are in the file."""
    left, rows, skipped = deque(jobs), [], []
    lost: Counter[str] = Counter()
    begun = time.monotonic()
    while left:
        job = {**left.popleft(), "avoid": [name for name in lost if lost[name] >= _LOST]}
        seconds = min(job["limit"], end - time.monotonic())
        if seconds < min(job["limit"], _WORTH):
            skipped.append(f"{job['part']}: {job['name']}")
            continue
        try:
            rows += worker.run(job, seconds)
        except StartError as error:
            rows.append({"part": "machine", "name": "", "contender": "", "error": str(error)})
            skipped += [f"{job['part']}: {job['name']}" for job in (job, *left)]
            break
        except WorkerError as error:
            alone = single(job, work)
            left.extendleft(reversed(alone))
            if not alone:
                lost.update([job["family"]] if "family" in job else [])
                rows += error.rows or [{**_of(job), "contender": _who(job), "error": str(error)}]
        results |= {"rows": rows, "skipped": skipped, "seconds": round(time.monotonic() - begun, 1)}
        _write(out, results)
        print(f"{job['part']} {job['name']}: {len(rows)} rows, {len(left)} jobs left", flush=True)
    worker.stop()
    _write(out, results | {"rows": rows, "skipped": skipped})
    return {"rows": rows, "skipped": skipped}


def _of(job: dict[str, Any]) -> dict[str, Any]:
    kept = ("part", "name", "plan", "folders", "batch")
    row = {key: job[key] for key in kept if key in job}
    return {**row, "exact": None} if job.get("folders") else row


def _who(job: dict[str, Any]) -> str:
    return "tvmquant" if job.get("folders") else str(job.get("peers") or job["kind"])


def _write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results), encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
