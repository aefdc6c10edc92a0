"""Models and tuning on emulated Raspberry Pis: servers for aarch64 under qemu."""

import signal
import threading
import time
import warnings

import numpy as np
import pytest
from emulated_pi import Unavailable, emulated_pi
from remote_tools import Process, free_port, tracking, wait_for_boards
from tuning_tools import MATMUL

import tvmquant
from tvmquant.errors import TargetError
from tvmquant.quantizer import SyntheticCalibrationWarning
from tvmquant.remote.address import Address
from tvmquant.targets import get_device
from tvmquant.tuning import Database, Trials, tune_workloads
from tvmquant.tuning.boards import Fleet
from tvmquant.tuning.record import Processor
from tvmquant.tuning.remote_pool import RemoteTuningWarning


def serve_on_pi(cpu, *arguments):
    """``tvmquant serve`` on an emulated Pi."""
    try:
        pi = emulated_pi(python=True)
    except Unavailable as error:
        pytest.skip(str(error))
    command = pi.command([pi.python, "-m", "tvmquant"], cpu=cpu, env=pi.python_env())
    return Process("serve", "--port", free_port(), *arguments, command=command)


@pytest.fixture(scope="module")
def pi_server():
    process = serve_on_pi("cortex-a72")
    yield process
    process.kill()


def demo(target, bits):
    from importlib.resources import files

    path = str(files("tvmquant") / "assets" / "demo.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntheticCalibrationWarning)
        return tvmquant.compile(path, target=target, bits=bits)


@pytest.mark.parametrize("bits", [pytest.param("w8a8", marks=pytest.mark.slow), "w4a8"])
def test_a_pi_computes_what_the_host_does(pi_server, bits):
    away, here = demo("rpi4", bits), demo("host", bits)
    x = np.random.default_rng(1).standard_normal(here.inputs[0].shape).astype(np.float32)
    with away.remote(pi_server.address) as remote:
        assert remote.device.machine == "aarch64" and "neon" in remote.device.features
        assert np.array_equal(remote(x), here(x))
        result = remote.benchmark(repeats=2, warmup=1)
        assert result.median_ms > 0 and result.peak_memory_mb > 10
        profile = remote.profile(repeats=1)
        assert sum(row.microseconds > 0 for row in profile.rows) > 5


def test_a_pi_refuses_what_is_not_made_for_it(pi_server, tiny_model):
    with pytest.raises(TargetError, match="compiled for x86_64, the device is aarch64"):
        tiny_model.remote(pi_server.address)
    with pytest.raises(TargetError, match="its processor lacks dotprod"):
        demo("rpi5", "w8a8").remote(pi_server.address)


@pytest.mark.slow  # tests/test_tuning_remote.py does it here
def test_two_pis_tune_and_one_dies(tmp_path):
    device = get_device("rpi4")
    database = Database(tmp_path / "db.jsonl")
    with tracking() as tracker:
        where = ("--tracker", tracker.address, "--key", "rpi4")
        pis = [serve_on_pi("cortex-a72", *where) for _ in range(2)]
        try:
            wait_for_boards(tracker.address, "rpi4", 2, seconds=600)

            def watch():
                while len(database) < 1:
                    time.sleep(0.05)
                pis[0].signal(signal.SIGKILL)

            threading.Thread(target=watch, daemon=True).start()
            fleet = Fleet((), Address.of(tracker.address), "rpi4", 60)
            plan = Trials(14, database, "analytic", workers=1)
            with pytest.warns(RemoteTuningWarning, match=f"dropped the device {pis[0].address}"):
                report = tune_workloads([MATMUL], device, plan, fleet=fleet)
        finally:
            for pi in pis:
                pi.kill()
    assert report.measured == 14 and report.failed == 0
    assert {record.processor for record in database.records} == {Processor.of(device)}
    assert Processor.of(device).cpu == "cortex-a72"
