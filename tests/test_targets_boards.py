"""Devices by name."""

import json

import pytest
import tvm
from click.testing import CliRunner

from tvmquant.cli import main
from tvmquant.errors import TargetError
from tvmquant.schedules.payoff import PRECISIONS, payoffs, typical_layer
from tvmquant.targets import Device, get_device
from tvmquant.targets.boards import ALIASES, BOARDS, find_board, known_names

PIS = {
    "rpi3": ("cortex-a53", "neon"),
    "rpi4": ("cortex-a72", "neon"),
    "rpi5": ("cortex-a76", "neon_dotprod"),
    "arm_cpu": ("cortex-a72", "neon"),
}


@pytest.mark.parametrize("name", PIS)
def test_raspberry_pis(name):
    device = get_device(name)
    cpu, isa = PIS[name]
    assert str(device.target.attrs["mcpu"]) == cpu
    assert (device.isa, device.architecture, device.num_cores) == (isa, "aarch64", 4)
    assert device.name == ALIASES.get(name, name)


@pytest.mark.parametrize(
    ("name", "isa", "features"),
    [
        ("aarch64", "neon", {"neon"}),
        ("aarch64+dotprod", "neon_dotprod", {"neon", "dotprod"}),
        ("aarch64+i8mm", "neon_i8mm", {"neon", "dotprod", "i8mm"}),
        ("aarch64+dotprod+i8mm", "neon_i8mm", {"neon", "dotprod", "i8mm"}),
        ("armv7l", "generic", {"neon"}),
        ("raspberry-pi/4b-aarch64", "neon", {"neon"}),
    ],
)
def test_features(name, isa, features):
    device = get_device(name)
    assert (device.name, device.isa, device.features) == (name, isa, features)


def test_a_processor_without_dot_products_is_a_lesser_one():
    device = get_device("rpi5").without("dotprod")
    assert device.isa == "neon" and device.features == {"neon"}
    with device.target:
        assert not tvm.target.codegen.target_has_features("dotprod")


def test_targets_of_tvm_mean_the_same_in_every_form():
    settings = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}
    devices = [get_device(settings), get_device(tvm.target.Target(settings))]
    assert devices[0].features == devices[1].features == {"neon", "dotprod"}
    assert json.loads(devices[1].target_json) == settings
    assert get_device(devices[0]) is devices[0]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("rpi9", "unknown target 'rpi9': use host, rpi3, rpi4, rpi5, aarch64, armv7l, arm_cpu"),
        ("rpi4+dotprod", "rpi4 has no feature 'dotprod' to add: it takes none"),
        ("aarch64+sve", "aarch64 has no feature 'sve' to add: it takes dotprod, i8mm"),
        ("", "unknown target ''"),
        ("gpu", "arm_cpu, cuda-sm_75, cuda-sm_80"),
        ({"kind": "cuda"}, "cuda-sm_120"),
        (3, "unknown target 3"),
        ({"kind": "llvm", "mcpu": 5}, "TVM refuses the target"),
    ],
)
def test_unknown_targets(target, words):
    with pytest.raises(TargetError) as caught:
        get_device(target)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_known_names_are_known():
    for name in known_names():
        assert isinstance(get_device(name), Device)
    assert find_board("rpi4+x") == (BOARDS[1], ("x",)) and find_board("x+rpi4") is None


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_typical_layer_keeps_to_its_bits(precision):
    layer = typical_layer(precision)
    assert precision == f"w{layer.w_bits}a{layer.x_bits}"
    largest = max(1, (1 << layer.w_bits - 1) - 1)
    assert 0 < layer.max_abs_sum <= largest * 9 * 64


def test_what_pays_is_relative_to_8_bits():
    found = {
        gain.precision: gain for gain in payoffs(get_device({"kind": "llvm", "mcpu": "znver3"}))
    }
    assert list(found) == list(PRECISIONS)
    assert found["w8a8"].work == 1 and not found["w8a8"].pays
    assert found["w1a1"].work < 1 and found["w1a1"].pays
    found = {gain.precision: gain for gain in payoffs(get_device("rpi4"))}
    assert found["w1a1"].pays and found["w1a1"].work < 0.6


def test_the_command_lists_everything():
    done = CliRunner().invoke(main, ["devices", "--json"])
    assert done.exit_code == 0, done.output
    found = {device["name"]: device for device in json.loads(done.output)}
    assert {"host", "aarch64+i8mm", *(board.name for board in BOARDS)} <= set(found)
    assert found["rpi5"]["features"] == ["dotprod", "neon"]
    assert not found["armv7l"]["tested"] and found["rpi4"]["tested"]
    assert found["cuda-sm_80"]["features"] == ["int8", "int4", "int1"]
    assert found["cuda-sm_90"]["features"] == ["int8", "int1"]
    assert found["cuda-sm_90"]["processor"] == "sm_90" and not found["cuda-sm_90"]["tested"]
    for device in found.values():
        assert set(device["pays"]) <= set(device["work"]) == set(PRECISIONS)
    table = CliRunner().invoke(main, ["devices"]).output
    assert "arm_cpu" in table and "untested" in table and "cuda-sm_90" in table
