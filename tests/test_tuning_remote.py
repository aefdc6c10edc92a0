"""Tuning on servers of this machine: one killed in the middle, wrong ones, none."""

import json
import signal
import sys
import threading
import time
from importlib.resources import files

import pytest
from click.testing import CliRunner
from remote_tools import Process, free_port, pretender, serving, tracking, wait_for_boards
from tuning_tools import CONV, HOST, MATMUL, crash, registered, wrong

from tvmquant.cli import main
from tvmquant.errors import RemoteError
from tvmquant.remote.address import Address
from tvmquant.tuning import Database, Trials, tune_workloads
from tvmquant.tuning.boards import Fleet
from tvmquant.tuning.candidates import candidates
from tvmquant.tuning.record import Processor
from tvmquant.tuning.remote_pool import RemotePool, RemoteTuningWarning

pytestmark = pytest.mark.filterwarnings("ignore::tvmquant.tuning.model.CostModelWarning")


DEMO = files("tvmquant") / "assets" / "demo.onnx"


def at(address, timeout=30.0):
    return Fleet((Address.of(address),), timeout=timeout)


def tune(fleet, database, workloads=(MATMUL,), count=6, device=HOST):
    plan = Trials(count, database, "analytic", workers=1)
    return tune_workloads(workloads, device, plan, fleet=fleet)


def when(database, count, action):
    """Call ``action`` once the database has so many records."""

    def watch():
        end = time.monotonic() + 120
        while len(database) < count and time.monotonic() < end:
            time.sleep(0.02)
        action()

    threading.Thread(target=watch, daemon=True).start()


def lines_of(path):
    return path.read_text().splitlines() if path.is_file() else []


def test_records_are_those_of_the_device_and_only_good_ones_count(tmp_path, monkeypatch):
    monkeypatch.setenv("TVMQUANT_TEST_RULES", "1")
    database = Database(tmp_path / "db.jsonl")
    with serving() as server, registered(wrong, crash):
        report = tune(at(server.address), database, count=len(candidates(MATMUL, HOST)))
    failed = {r.rule.rpartition(".")[2]: r.error for r in database.records if r.seconds is None}
    assert failed.keys() == {"wrong", "crash"}
    assert "values differ" in failed["wrong"] and "signal 11" in failed["crash"]
    assert all(r.processor == Processor.of(HOST) for r in database.records)
    assert report.failed == 2 and report.layers[0].best is not None
    assert len(Database(tmp_path / "db.jsonl")) == len(database)


def test_one_of_two_boards_is_killed_in_the_middle():
    database = Database()
    with (
        tracking() as tracker,
        serving("--tracker", tracker.address, "--key", "box") as first,
        serving("--tracker", tracker.address, "--key", "box") as second,
    ):
        wait_for_boards(tracker.address, "box", 2)
        when(database, 1, first.kill)
        fleet = Fleet((), Address.of(tracker.address), "box", 30)
        with pytest.warns(RemoteTuningWarning, match=f"dropped the device {first.address}"):
            report = tune(fleet, database, (CONV,), count=20)
        assert report.measured == 20 and report.failed == 0
        assert "session with" in first.output and "session with" in second.output


@pytest.mark.slow
def test_with_no_board_left_the_database_stays(tmp_path):
    database = Database(tmp_path / "db.jsonl")
    with serving() as server:
        when(database, 1, server.kill)
        with (
            pytest.warns(RemoteTuningWarning, match="dropped"),
            pytest.raises(RemoteError, match=f"no device is left of {server.address}"),
        ):
            tune(at(server.address), database, (CONV,), count=24)
    kept = Database(tmp_path / "db.jsonl")
    assert 8 <= len(kept) < 24 and all(record.seconds for record in kept.records)
    # Another device goes on from there.
    with serving() as server:
        report = tune(at(server.address), kept, (CONV,), count=len(kept) + 2)
    assert report.measured == 2 and report.layers[0].best


def test_a_hanging_board_is_dropped():
    database = Database()
    with serving() as hanging, serving() as good:
        when(database, 1, lambda: hanging.signal(signal.SIGSTOP))
        fleet = Fleet((Address.of(hanging.address), Address.of(good.address)), timeout=10)
        with pytest.warns(RemoteTuningWarning, match=f"dropped the device {hanging.address}"):
            report = tune(fleet, database, (CONV,), count=12)
        assert report.measured == 12 and report.failed == 0


def test_a_board_that_talks_nonsense_is_left_out():
    with pretender(lambda link, _: link.sendall(b"\xff" * 64)) as nonsense, serving() as good:
        fleet = Fleet((Address.of(nonsense), Address.of(good.address)), timeout=8)
        with pytest.warns(RemoteTuningWarning, match=nonsense):
            report = tune(fleet, Database())
    assert report.measured == 6 and report.failed == 0


def test_a_crashing_candidate_costs_sessions_but_no_board(monkeypatch):
    """A kernel that brings the device's process down, simulated by killing its session."""
    import psutil

    with serving() as server:
        with RemotePool(at(server.address), HOST, workers=1) as pool:
            for child in psutil.Process(server.popen.pid).children():
                child.kill()
            board = pool._boards.alive[0]
            assert board.run(pool._referee._proof.job, pool._referee._proof.library, 1).kind == (
                "lost"
            )
            assert pool._referee.tries(board)
        server.wait_for("session crashed")


def test_ctrl_c_ends_everything_at_once(tmp_path):
    script = tmp_path / "tune.py"
    script.write_text(
        "import sys\n"
        "from tvmquant.cli import main\n"
        "sys.argv[0] = 'tvmquant'\n"
        "print('starting on 127.0.0.1:1', flush=True)\n"
        "main()\n"
    )
    path = tmp_path / "db.jsonl"
    with serving() as server:
        command = (sys.executable, str(script), "tune", str(DEMO), "--trials", "50")
        options = ("--database", path, "--rpc", server.address, "--cost-model", "analytic")
        process = Process(*options, command=command)
        try:
            end = time.monotonic() + 120
            while len(lines_of(path)) < 8 and time.monotonic() < end:
                time.sleep(0.1)
            process.popen.send_signal(signal.SIGINT)
            assert process.popen.wait(30) == 130
            assert f"measurements were added to {path}" in process.output
            server.wait_for("session (ended|crashed)")
        finally:
            process.kill()
    assert len(Database(path)) >= 8


def test_nobody_to_measure_on(tmp_path):
    port = free_port()
    with pytest.warns(RemoteTuningWarning), pytest.raises(RemoteError, match="refuses the conn"):
        tune(at(f"127.0.0.1:{port}"), Database())
    with tracking() as tracker:
        with pytest.raises(RemoteError, match=r"key 'rpi4' at the tracker .*none is registered"):
            tune(Fleet((), Address.of(tracker.address), "rpi4"), Database())


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def matmul_onnx(tmp_path_factory):
    import numpy as np
    import onnx

    weight = np.random.default_rng(0).standard_normal((32, 48)).astype(np.float32)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matmul",
        [info("x", onnx.TensorProto.FLOAT, [6, 32])],
        [info("y", onnx.TensorProto.FLOAT, [6, 48])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path_factory.mktemp("onnx") / "matmul.onnx"
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def test_the_command(matmul_onnx, tmp_path):
    common = ("tune", matmul_onnx, "--trials", 2, "--database", tmp_path / "db.jsonl")
    with serving("--key", "box") as server:
        where = ("--rpc", server.address, "--key", "box", "--cost-model", "analytic")
        result = cli(*common, *where, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["measured"] == 2
        result = cli(*common, *where[:2], "--key", "bax", "--cost-model", "analytic")
        assert result.exit_code == 1 and "refuses the key 'bax'" in result.stderr
    gone = cli(*common[:3], 4, *common[4:], *where)
    assert gone.exit_code == 1
    assert "no device is left" in gone.stderr and "0 measurements were added" in gone.stderr
    for wrong_options, words in (
        (("--key", "box"), "needs --rpc or --tracker"),
        (("--tracker", "pi:9190"), "needs --key"),
        (("--rpc", "pi:9090", "--tracker", "pi:9190"), "give one"),
        (("--rpc", "pi"), "write HOST:PORT"),
        (("--rpc", "pi:9090", "--metaschedule", 2), "this machine"),
    ):
        result = cli(*common, *wrong_options)
        assert result.exit_code == 2 and words in result.stderr
