"""The loop: budgets, resuming, interruption, candidates that fail."""

import warnings

import pytest
from tuning_tools import (
    CONV,
    HOST,
    MATMUL,
    FakeBuilders,
    fail,
    fake_seconds,
    name_of,
    record,
    registered,
    wrong,
)

from tvmquant.schedules.selection import KernelTable
from tvmquant.tuning.candidates import candidates
from tvmquant.tuning.cost_model import AnalyticModel
from tvmquant.tuning.database import Database
from tvmquant.tuning.pool import InProcess, Outcome
from tvmquant.tuning.trials import Trials
from tvmquant.tuning.tuner import Tuner, TuningWarning


def tuner(builders, database=None, count=4, progress=None, **more):
    database = Database() if database is None else database
    return Tuner(HOST, Trials(count, **more), database, AnalyticModel(), builders, progress)


def test_every_layer_gets_its_trials_and_the_database_the_fastest():
    database, builders = Database(), FakeBuilders()
    report = tuner(builders, database, 10**6).run([MATMUL, CONV, MATMUL])
    assert [layer.workload for layer in report.layers] == [CONV, MATMUL]
    assert report.measured == len(candidates(MATMUL, HOST)) + len(candidates(CONV, HOST))
    for layer in report.layers:
        configs = [c.config for c in candidates(layer.workload, HOST)]
        times = [fake_seconds(config) for config in configs]
        assert layer.best == min(times) and layer.default == times[0]
        assert layer.ratio == pytest.approx(times[0] / min(times))
        best = KernelTable(HOST, database=database)[layer.workload]
        assert fake_seconds(vars(best.sizes)) == min(times)
        assert KernelTable(HOST)[layer.workload].sizes is None
    assert "2 distinct layers" in str(report)


def test_a_second_run_measures_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    first = tuner(FakeBuilders(), Database(path)).run([MATMUL, CONV])
    assert first.measured == 8
    again = FakeBuilders()
    second = tuner(again, Database(path)).run([CONV, MATMUL])
    assert again.timings == 0 and again.jobs == [] and second.measured == 0
    assert second.layers == first.layers


def test_more_trials_only_add_what_is_missing(tmp_path):
    path = tmp_path / "a.jsonl"
    tuner(FakeBuilders(), Database(path)).run([CONV])
    assert tuner(FakeBuilders(), Database(path), 7).run([CONV]).measured == 3
    measured = Database(path).measured(CONV, HOST)
    assert len({r.key for r in measured}) == 7
    # Another number of threads is another measurement.
    assert tuner(FakeBuilders(), Database(path), 2, threads=2).run([CONV]).measured == 2


def test_an_interrupted_run_keeps_what_it_measured(tmp_path):
    path = tmp_path / "a.jsonl"
    # The first timing is that of the reference.
    with pytest.raises(KeyboardInterrupt):
        tuner(FakeBuilders(interrupt_at=4), Database(path)).run([CONV])
    assert len(Database(path)) == 2
    assert tuner(FakeBuilders(), Database(path)).run([CONV]).measured == 2


def test_progress_ends_at_its_total():
    seen = []
    tuner(FakeBuildersThatFail(), count=9, progress=lambda *a: seen.append(a)).run([CONV])
    assert {stage for stage, _, _ in seen} == {"tune"}
    assert seen[-1][1] == seen[-1][2] == 9
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


class FakeBuildersThatFail(FakeBuilders):
    """Every third candidate does not build, every fourth is lost with its process."""

    def build(self, jobs):
        return [(h, "no" if h % 3 == 2 else "") for h, _ in super().build(jobs)]

    def time(self, handle, best):
        self.timings += 1
        config = self.jobs[handle].config
        lost = self.timings % 4 == 3
        return Outcome() if lost else Outcome(fake_seconds(config) if config else 1.0)


def test_failures_are_recorded_and_never_chosen():
    database = Database()
    report = tuner(FakeBuildersThatFail(), database, 12).run([CONV])
    records = database.measured(CONV, HOST)
    failed = [r for r in records if r.seconds is None]
    assert report.failed == len(failed) > 0 and report.measured == 12
    assert {r.error for r in failed} <= {"no", "its process died"}
    keys = {r.key for r in failed}
    assert not keys & {
        (c.rule, r.key[1])
        for c in database.ranked(CONV, HOST)
        for r in failed
        if dict(c.config) == dict(r.config)
    }


def test_a_wrong_candidate_cannot_win():
    database = Database()
    with registered(wrong, fail), pytest.MonkeyPatch.context() as patch:
        # Whatever is right takes long.
        builders = InProcess()
        patch.setattr(builders._session, "time", lambda number, best: 1.0)
        tuner(builders, database, 3).run([MATMUL])
        bad = {r.rule: r.error for r in database.records if r.seconds is None}
        assert set(bad) == {name_of(wrong), name_of(fail)}
        assert "wrong output: " in bad[name_of(wrong)] and "values differ" in bad[name_of(wrong)]
        assert "cannot pack" in bad[name_of(fail)]
        assert KernelTable(HOST, database=database)[MATMUL].name.startswith("matmul_6x32")


def test_a_layer_whose_default_fails_is_left_out_with_a_warning():
    database = Database()
    with registered(fail, priority=99), pytest.warns(TuningWarning, match=r"matmul \(6, 32\) x"):
        report = tuner(InProcess(), database).run([MATMUL])
    assert report.layers[0].best is None and report.layers[0].ratio is None
    assert [r.seconds for r in database.records] == [None]


def test_measurements_without_todays_default_are_not_trusted():
    database = Database()
    database.add(record(1e-9, config=candidates(MATMUL, HOST)[2].config))
    assert KernelTable(HOST, database=database)[MATMUL].sizes is not None
    with registered(wrong, priority=99):
        assert KernelTable(HOST, database=database)[MATMUL].name == "matmul_wrong"


@pytest.mark.parametrize(
    "config", [{"rows": 1}, {"rows": 0, "columns": 1, "vectors": 1, "chunk_tiles": 1}, {"x": 1}]
)
def test_unknown_sizes_fall_back_to_the_default(config):
    database = Database()
    database.add(record(1e-9, config=config))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert KernelTable(HOST, database=database)[MATMUL].sizes is None
