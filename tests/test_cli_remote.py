"""``tvmquant run | bench`` on a server of this machine."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from remote_tools import free_port, serving

from tvmquant.cli import main


@pytest.fixture(scope="module")
def server():
    with serving("--key", "box") as process:
        yield process


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_run_gives_what_it_gives_here(server, tiny_bundle, tiny_inputs, tmp_path):
    np.savez(tmp_path / "in.npz", **tiny_inputs)
    where = ("--rpc", server.address, "--key", "box")
    for name, options in (("here", ()), ("there", where)):
        arguments = ("--inputs", tmp_path / "in.npz", "-o", tmp_path / f"{name}.npz")
        assert cli("run", tiny_bundle, *arguments, *options).exit_code == 0
    with np.load(tmp_path / "here.npz") as here, np.load(tmp_path / "there.npz") as there:
        assert here.files == there.files == ["y", "z"]
        assert all(np.array_equal(here[name], there[name]) for name in here.files)


def test_bench_names_the_device(server, tiny_bundle):
    where = ("--rpc", server.address, "--key", "box", "--repeats", 3)
    result = cli("bench", tiny_bundle, *where)
    assert result.exit_code == 0 and f"at {server.address}" in result.stdout, result.output
    data = json.loads(cli("bench", tiny_bundle, *where, "--profile", "--json").stdout)
    assert data["repeats"] == 3 and data["peak_memory_mb"] > 10 and server.address in data["device"]
    assert len(data["profile"]["layers"]) == 4


def test_what_goes_wrong_is_one_line(server, tiny_bundle, tmp_path):
    nobody = f"127.0.0.1:{free_port()}"
    for options, code, words in (
        (("--rpc", server.address), 1, "refuses the key ''"),
        (("--rpc", nobody), 1, f"{nobody} refuses the connection"),
        (("--tracker", nobody, "--key", "x"), 1, f"the tracker {nobody} refuses the connection"),
        (("--rpc", "pi"), 2, "write HOST:PORT"),
        (("--rpc", nobody, "--tracker", nobody), 2, "give one"),
        (("--tracker", nobody), 2, "needs --key"),
        (("--key", "x"), 2, "needs --rpc or --tracker"),
        (("--rpc", server.address, "--key", "box", "--threads", 999), 2, "cannot use 999 threads"),
    ):
        result = cli("bench", tiny_bundle, *options)
        assert result.exit_code == code and words in result.stderr, result.output
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    missing = cli("bench", tmp_path / "no", "--rpc", nobody)
    assert missing.exit_code == 2 and "not a compiled model" in missing.stderr
