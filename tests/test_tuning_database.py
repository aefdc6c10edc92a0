"""Measurements in a file: appending, damage, and what a lookup finds."""

import threading
from dataclasses import replace

import pytest
from tuning_tools import CONV, HOST, MATMUL, record

from tvmquant.errors import InputError
from tvmquant.targets import Device
from tvmquant.tuning.database import Database, Databases, DatabaseWarning, append_line
from tvmquant.tuning.record import Processor

OTHER_CPU = Device("other", '{"kind": "llvm", "mcpu": "other"}', HOST.features)
OTHER_ISA = Device("old", '{"kind": "llvm", "mcpu": "old"}', frozenset({"ssse3"}))


def configs(choices):
    return [choice.config for choice in choices]


def test_what_was_added_is_there_after_reading_again(tmp_path):
    path = tmp_path / "a.jsonl"
    first = Database(path)
    assert not path.exists() and len(first) == 0
    added = [record(1e-3), record(None, CONV, error="bad"), record(2e-3, CONV)]
    for one in added:
        first.add(one)
    assert sorted(map(str, Database(path).records)) == sorted(map(str, added))
    assert path.read_text().count("\n") == 3


def test_the_fastest_measurement_of_each_choice_counts():
    database = Database()
    for seconds, rows in ((3e-3, 1), (2e-3, 2), (1e-3, 1), (None, 3)):
        database.add(record(seconds, config={"rows": rows}))
    assert configs(database.ranked(MATMUL, HOST)) == [{"rows": 1}, {"rows": 2}]
    assert database.best(MATMUL, HOST).seconds == 1e-3
    assert database.best(CONV, HOST) is None and database.ranked(CONV, HOST) == []


def test_the_same_processor_first_then_the_same_instruction_set():
    database = Database()
    database.add(record(1e-6, device=OTHER_ISA, config={"rows": 9}))
    assert database.ranked(MATMUL, HOST) == []
    database.add(record(1e-6, device=OTHER_CPU, config={"rows": 2}))
    assert configs(database.ranked(MATMUL, HOST)) == [{"rows": 2}]
    # Slower, but measured here.
    database.add(record(1e-3, config={"rows": 1}))
    assert configs(database.ranked(MATMUL, HOST)) == [{"rows": 1}]
    assert database.measured(MATMUL, OTHER_CPU)[0].processor == Processor.of(OTHER_CPU)


def test_times_of_different_thread_counts_are_not_compared():
    database = Database()
    database.add(record(1e-6, threads=4, config={"rows": 4}))
    database.add(record(1e-3, threads=1, config={"rows": 1}))
    assert configs(database.ranked(MATMUL, HOST)) == [{"rows": 1}]
    assert len(database.measured(MATMUL, HOST, 4)) == 1


def test_what_the_weights_prove_makes_no_difference_with_vnni():
    vnni = Device("v", '{"kind": "llvm", "mcpu": "v"}', frozenset({"avxvnni", "avx2"}))
    proven = replace(MATMUL, no_saturation=True)
    for device, found in ((vnni, 1), (OTHER_ISA, 0)):
        database = Database()
        database.add(record(device=device))
        assert len(database.ranked(proven, device)) == found
        assert database.measured(proven, device) == []


def test_weights_that_prove_something_else_are_the_next_best():
    strict, loose = (replace(CONV, max_abs_sum=bound) for bound in (1024, 4096))
    database = Database()
    for workload, rows in ((CONV, 1), (loose, 2), (strict, 3)):
        database.add(record(workload=workload, config={"rows": rows}))
    for bound, rows in ((1024, 3), (2048, 2), (4096, 2), (8192, 1), (512, 3), (None, 1)):
        wanted = replace(CONV, max_abs_sum=bound)
        assert configs(database.ranked(wanted, HOST)) == [{"rows": rows}]
    only = Database()
    only.add(record(workload=strict, config={"rows": 3}))
    assert configs(only.ranked(loose, HOST)) == [{"rows": 3}]
    assert only.ranked(replace(loose, w_bits=4), HOST) == []


def test_damaged_lines_are_skipped_with_a_warning(tmp_path):
    path = tmp_path / "a.jsonl"
    good = record().to_json()
    newer = good.replace('"format":1', '"format":7')
    path.write_text(f"{good}\n{good[:40]}\n\n{newer}\n{good}\n")
    with pytest.warns(DatabaseWarning, match=r"a\.jsonl: skipped line 2, 4, damaged"):
        database = Database(path)
    assert len(database) == 2


def test_a_line_cut_off_by_a_crash_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(record().to_json()[:50])
    append_line(path, record(5e-3).to_json())
    with pytest.warns(DatabaseWarning, match="skipped line 1,"):
        assert [r.seconds for r in Database(path).records] == [5e-3]


@pytest.mark.parametrize("content", [b"hello\n", b"\x08\x07\xff\x00", b'{"format":9}\n'])
def test_a_file_that_is_no_database_is_refused(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx is not a tuning database"):
        Database(path)


def test_unreadable_and_unwritable_paths(tmp_path):
    with pytest.raises(InputError, match="cannot read the database"):
        Database(tmp_path)
    with pytest.raises(InputError, match=r"cannot write the database .*; name another"):
        Database(tmp_path / "no" / "a.jsonl").add(record())


def test_writers_do_not_tear_each_others_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [record(1e-3 + i * 1e-6).to_json() for i in range(60)]

    def write(part):
        for line in part:
            append_line(path, line)

    writers = [threading.Thread(target=write, args=(lines[i::3],)) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(path.read_text().split("\n")[:-1]) == sorted(lines)


def test_the_first_database_that_knows_answers():
    first, second = Database(), Database()
    second.add(record(config={"rows": 2}))
    assert configs(Databases([first, second]).ranked(MATMUL, HOST)) == [{"rows": 2}]
    first.add(record(config={"rows": 1}))
    assert configs(Databases([first, second]).ranked(MATMUL, HOST)) == [{"rows": 1}]
    assert Databases([first, second]).ranked(CONV, HOST) == ()
