"""Rounds of measurements on devices that are lost, lie, or both; no process is started."""

import threading
import time

import pytest

from tvmquant.errors import InputError, RemoteError
from tvmquant.remote.address import Address
from tvmquant.tuning.boards import Fleet
from tvmquant.tuning.remote_session import Answer
from tvmquant.tuning.round import Referee, Round, Trial

PROOF = "proof"


class FakeBoard:
    """Answers as told: ``behave(library, count)`` gives an answer's kind."""

    def __init__(self, name, behave=lambda library, count: "time", comes_back=True):
        self.address, self.behave, self.comes_back = Address(name, 1), behave, comes_back
        self.ran, self.reopened, self.connected = [], 0, True

    def run(self, _job, library, _best):
        self.ran.append(library)
        time.sleep(0.002)  # so that all devices get something to do
        kind = self.behave(library, len(self.ran)) if self.connected else "lost"
        self.connected = kind != "lost"
        return Answer(kind, 1e-3, kind)

    def reopen(self):
        self.reopened += 1
        if not self.comes_back:
            raise RemoteError("gone")
        self.connected = True

    def close(self):
        self.connected = False


class FakeBoards:
    def __init__(self, *boards):
        self.alive, self.reasons, self._lock = list(boards), {}, threading.Lock()

    def __len__(self):
        return len(self.alive)

    def close(self):
        for board in self.alive:
            board.close()

    def drop(self, board, why):
        with self._lock:
            if board in self.alive:
                self.alive.remove(board)
                self.reasons[board.address.host] = why


def measure(*boards, count=12):
    """The answers' kinds, and the fleet afterwards."""
    fleet = FakeBoards(*boards)
    trials = [Trial(i, None, f"k{i}") for i in range(count)]
    Round(fleet, Referee(fleet, Trial(-1, None, PROOF)), trials).run()
    return [t.answer and t.answer.kind for t in trials], fleet


def test_healthy_devices_share_the_work():
    boards = [FakeBoard(name) for name in "abc"]
    kinds, fleet = measure(*boards)
    assert kinds == ["time"] * 12 and len(fleet) == 3
    assert all(board.ran[0] == PROOF and board.ran.count(PROOF) == 1 for board in boards)
    assert sorted(k for board in boards for k in board.ran[1:]) == sorted(
        f"k{i}" for i in range(12)
    )
    assert all(len(board.ran) > 1 for board in boards)


def test_what_a_dying_device_had_is_measured_elsewhere():
    dying = FakeBoard("a", lambda _, count: "time" if count < 4 else "lost", comes_back=False)
    kinds, fleet = measure(dying, FakeBoard("b"))
    assert kinds == ["time"] * 12
    assert [board.address.host for board in fleet.alive] == ["b"] and "a" in fleet.reasons


def test_a_candidate_that_crashes_sessions_fails_and_the_devices_live_on():
    def crash(library, _count):
        return "lost" if library == "k5" else "time"

    for boards in ([FakeBoard("a", crash)], [FakeBoard("a", crash), FakeBoard("b", crash)]):
        kinds, fleet = measure(*boards)
        assert kinds == ["time"] * 5 + ["failed"] + ["time"] * 6
        assert len(fleet) == len(boards) and sum(board.reopened for board in boards) == 2


def test_a_device_that_computes_nonsense_is_dropped_before_it_measures():
    for kind in ("wrong", "lost", "failed"):
        liar = FakeBoard("a", lambda *_, kind=kind: kind, comes_back=False)
        kinds, fleet = measure(liar, FakeBoard("b"))
        assert kinds == ["time"] * 12 and set(fleet.reasons) == {"a"}
        assert set(liar.ran) == {PROOF}


def test_a_device_that_goes_wrong_later_is_found_out():
    """Its memory fails: also what it must get right is wrong from then on."""
    broken = FakeBoard("a", lambda _, count: "time" if count < 3 else "wrong")
    kinds, fleet = measure(broken, FakeBoard("b"))
    assert kinds == ["time"] * 12
    assert "computes wrong values" in fleet.reasons["a"]


def test_two_devices_must_agree_that_a_candidate_is_wrong():
    def wrong(library, _count):
        return "wrong" if library == "k3" else "time"

    kinds, fleet = measure(FakeBoard("a", wrong), FakeBoard("b", wrong))
    assert kinds[3] == "wrong" and kinds.count("time") == 11 and len(fleet) == 2
    # Only one of them says so: it is the one that lies.
    kinds, fleet = measure(
        FakeBoard("a", lambda library, _: "time" if library == PROOF else "wrong"), FakeBoard("b")
    )
    assert kinds == ["time"] * 12 and set(fleet.reasons) == {"a"}
    # Nobody else can be asked.
    kinds, fleet = measure(FakeBoard("a", wrong))
    assert kinds[3] == "wrong" and len(fleet) == 1


def test_a_device_that_was_dropped_has_no_say():
    """It is found out while it runs its last candidate, which the other one is to judge alone."""
    dropped = threading.Event()

    def lie(library, _count):
        if library == PROOF:
            return "time"
        if library == "k1":
            assert dropped.wait(10)
        return "wrong"

    class Noticing(FakeBoards):
        def drop(self, board, why):
            super().drop(board, why)
            dropped.set()

    def tell(library, _count):
        if library == "k0":
            assert liar_is_at_k1.wait(10)
        return "time"

    liar_is_at_k1 = threading.Event()
    liar = FakeBoard("a", lie)
    fleet = Noticing(liar, FakeBoard("b", tell))
    trials = [Trial(0, None, "k0", wrong_at=liar), Trial(1, None, "k1")]
    run = liar.run

    def watched(job, library, best):
        if library == "k1":
            liar_is_at_k1.set()
        return run(job, library, best)

    liar.run = watched
    Round(fleet, Referee(fleet, Trial(-1, None, PROOF)), trials).run()
    assert [t.answer.kind for t in trials] == ["time", "time"] and set(fleet.reasons) == {"a"}


def test_without_devices_candidates_keep_no_answer():
    kinds, fleet = measure(
        FakeBoard("a", lambda _, count: "time" if count < 4 else "lost", comes_back=False)
    )
    assert kinds.count("time") == 2 and kinds.count(None) == 10 and not fleet.alive


def test_a_fleet_is_addresses_or_a_tracker():
    where = Address("pi", 9090)
    assert str(Fleet((where,))) == "pi:9090"
    assert "key 'rpi4' at the tracker pi:9090" in str(Fleet((), where, "rpi4"))
    for wrong, words in ((((),), "one of them"), (((where,), where), "one of them")):
        with pytest.raises(InputError, match=words):
            Fleet(*wrong)
    with pytest.raises(InputError, match="needs a key"):
        Fleet((), where)
