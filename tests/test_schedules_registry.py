import pytest

from tvmquant.errors import TvmQuantError
from tvmquant.schedules import registry
from tvmquant.schedules.registry import register_rule, rules_for
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.workload import Workload
from tvmquant.targets import get_device


@pytest.fixture
def op():
    name = "registry_test_op"
    yield name
    registry._RULES.pop(name, None)


def workload(op):
    return Workload(op, (1, 4), (2, 4))


def test_highest_priority_wins_whatever_the_order_of_registration(op):
    def low(_workload, _device):
        return "low"

    def high(_workload, _device):
        return "high"

    register_rule(op, 1)(low)
    register_rule(op, 5)(high)
    assert KernelTable(get_device())[workload(op)] == "high"
    assert rules_for(op) == [high, low]


def test_a_rule_that_returns_none_passes_on(op):
    register_rule(op, 9)(lambda _workload, _device: None)

    @register_rule(op, 1)
    def general(seen, device):
        return (seen.op, device.name)

    assert KernelTable(get_device())[workload(op)] == (op, "host")


def test_equal_priorities_go_by_name(op):
    def b_rule(_workload, _device):
        return "b"

    def a_rule(_workload, _device):
        return "a"

    for first, second in ((a_rule, b_rule), (b_rule, a_rule)):
        registry._RULES.pop(op, None)
        register_rule(op, 3)(first)
        register_rule(op, 3)(second)
        assert KernelTable(get_device())[workload(op)] == "a"


def test_registering_again_replaces(op):
    def rule(_workload, _device):
        return "old"

    register_rule(op, 3)(rule)
    register_rule(op, 7)(rule)
    assert rules_for(op) == [rule]


def test_no_rule_is_an_error_that_names_the_workload():
    with pytest.raises(TvmQuantError, match=r"no kernel for nothing_like_it \(1, 4\)"):
        KernelTable(get_device())[workload("nothing_like_it")]
