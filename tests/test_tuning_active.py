"""Which measurements a compilation uses."""

import pytest
from tuning_tools import HOST, MATMUL, record

from tvmquant.errors import InputError
from tvmquant.schedules.selection import KernelTable
from tvmquant.tuning import active
from tvmquant.tuning.active import VARIABLE, active_database, shipped, shipped_path
from tvmquant.tuning.candidates import candidates
from tvmquant.tuning.database import Database

CONFIGS = [c.config for c in candidates(MATMUL, HOST)]


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    shipped.cache_clear()
    yield
    shipped.cache_clear()


@pytest.fixture
def stored(tmp_path):
    """A file in which the second configuration is the fastest."""
    path = tmp_path / "a.jsonl"
    for seconds, config in ((2e-3, CONFIGS[0]), (1e-3, CONFIGS[1])):
        Database(path).add(record(seconds, config=config))
    return path


def chosen(database):
    table = KernelTable(HOST, database=database)
    sizes = table[MATMUL].sizes
    return None if sizes is None else vars(sizes)


def test_off_by_argument_and_by_variable(monkeypatch, stored):
    assert active_database(False, HOST) is None
    monkeypatch.setenv(VARIABLE, str(stored))
    assert active_database(False, HOST) is None
    for word in ("off", "OFF", "0", "none"):
        monkeypatch.setenv(VARIABLE, word)
        assert active_database(None, HOST) is None


def test_a_file_by_argument_or_by_variable(monkeypatch, stored):
    assert chosen(active_database(stored, HOST)) == CONFIGS[1]
    assert chosen(active_database(str(stored), HOST)) == CONFIGS[1]
    assert chosen(active_database(Database(stored), HOST)) == CONFIGS[1]
    monkeypatch.setenv(VARIABLE, str(stored))
    assert chosen(active_database(None, HOST)) == CONFIGS[1]
    assert chosen(None) is None


def test_what_ships_is_used_unless_the_users_file_knows_better(monkeypatch, stored, tmp_path):
    ships = tmp_path / "ships.jsonl"
    for seconds, config in ((2e-3, CONFIGS[0]), (1e-3, CONFIGS[2])):
        Database(ships).add(record(seconds, config=config))
    monkeypatch.setattr(active, "shipped_path", lambda isa: ships)
    assert chosen(active_database(None, HOST)) == CONFIGS[2]
    assert chosen(active_database(stored, HOST)) == CONFIGS[1]
    empty = Database()
    assert chosen(active_database(empty, HOST)) == CONFIGS[2]


def test_an_instruction_set_nothing_ships_for():
    assert not shipped_path("no-such-isa").exists()
    assert len(shipped("no-such-isa")) == 0


@pytest.mark.parametrize(
    ("database", "message"),
    [("no.jsonl", "no tuning database no.jsonl: make one with tvmquant tune"), (3, "got int")],
)
def test_bad_arguments(database, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        active_database(database, HOST)


def test_a_recipe_without_expansion_gets_the_best_kernel_that_has_none(stored):
    class Expanding:
        name = "expanding"

        def expansion(self):
            return object()

    from tuning_tools import registered

    def expanding(_workload, _device):
        return Expanding()

    with registered(expanding, priority=99):
        rule = f"{expanding.__module__}.{expanding.__qualname__}"
        database = Database(stored)
        database.add(record(1e-9, rule=rule))
        assert KernelTable(HOST, database=database)[MATMUL].name == "expanding"
        thrifty = KernelTable(HOST, expand=False, database=database)[MATMUL]
        assert vars(thrifty.sizes) == CONFIGS[1]
