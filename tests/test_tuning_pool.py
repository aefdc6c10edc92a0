"""Worker processes: what they build, how they die."""

import math
import threading

import pytest
from tuning_tools import CONV, HOST, MATMUL, crash, fail, hang, name_of, registered, wrong

from tvmquant.tuning.candidates import candidates
from tvmquant.tuning.pool import InProcess, Pool, Worker
from tvmquant.tuning.session import Job


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setenv("TVMQUANT_TEST_RULES", "1")
    made = Pool(2)
    yield made
    made.close()
    assert not any(worker.alive for worker in made._workers)


def jobs(workload, folder, count):
    path = str(folder / f"{workload.op}.npz")
    return [Job(workload, HOST, c.rule, c.config, path) for c in candidates(workload, HOST)[:count]]


def test_candidates_are_built_checked_and_timed(pool, tmp_path):
    for workload in (CONV, MATMUL):
        reference, *others = jobs(workload, tmp_path, 4)
        ((first, error),) = pool.build([reference])
        built = pool.build(others)
        assert [e for _, e in built] == [""] * 3 and error == ""
        for handle in (first, *(h for h, _ in built)):
            assert 0 < pool.time(handle, math.inf).seconds < 1
        pool.drop([first])


def test_bad_candidates_do_not_take_the_others_along(pool, tmp_path):
    ((first, error),) = pool.build(jobs(MATMUL, tmp_path, 1))
    assert not error
    path = str(tmp_path / "matmul.npz")
    bad = [Job(MATMUL, HOST, name_of(rule), {}, path) for rule in (crash, wrong, fail, hang)]
    with registered(crash, wrong, fail, hang):
        crashed, differs, failed = (error for _, error in pool.build(bad[:3]))
        pool.limit = 4  # only now: a busy machine may need more for the others
        ((_, hung),) = pool.build(bad[3:])
    assert crashed == "crashed (signal 11)"
    assert "values differ" in differs
    assert hung == "took more than 4 s"
    assert failed == "RuntimeError: cannot pack"
    # What a process held when it died is to be tried again, and the next one works on.
    lost = pool.time(first, math.inf)
    assert lost.seconds is None and lost.error == ""
    pool.limit = 60
    ((again, error),) = pool.build(jobs(MATMUL, tmp_path, 1))
    assert error == "" and pool.time(again, math.inf).seconds > 0


def test_without_processes_it_is_the_same(tmp_path):
    inside = InProcess()
    good, other = jobs(MATMUL, tmp_path, 2)
    results = inside.build([good, other, Job(MATMUL, HOST, "no.such.rule", {}, good.reference)])
    assert [error for _, error in results[:2]] == ["", ""]
    assert "no rule no.such.rule for matmul" in results[2][1]
    assert inside.time(results[0][0], math.inf).seconds > 0


def test_ctrl_c_at_any_moment_leaves_no_timer_that_holds_the_command_back(monkeypatch):
    start = threading.Timer.start

    def interrupted(timer):
        start(timer)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Timer, "start", interrupted)
    monkeypatch.setattr(Worker, "_start", lambda worker: None)
    with pytest.raises(KeyboardInterrupt):
        Worker(1).ask("build", seconds=60)
    timers = [t for t in threading.enumerate() if isinstance(t, threading.Timer)]
    assert all(timer.daemon or timer.finished.is_set() for timer in timers)
