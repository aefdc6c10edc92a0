"""``tvmquant export``."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner

from tvmquant.cli import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bundles are for Linux")


def run(bundle, *arguments):
    command = [bundle / "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def command(*arguments):
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def test_the_command(tiny_bundle, tmp_path):
    done = command(tiny_bundle, "-o", tmp_path / "out", "--target", "host")
    assert done.exit_code == 0, done.output
    assert done.output.strip().startswith(f"{tmp_path / 'out'}: w8a8 for host, ")
    assert run(tmp_path / "out", "--info").startswith("tiny.onnx")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "rpi9"], "unknown target 'rpi9'"),
        (["--target", "rpi4"], "compiled for host, not for rpi4: compile it with --target rpi4"),
        (["--bits", "4"], "compiled already: leave --bits away"),
        (["--input-shape", "x=1"], "leave --input-shape away"),
        (["--static"], "a compiled folder cannot become static"),
        (["--static", "--no-runtime"], "--static links with the runtime"),
        (["--runtime", ".", "--no-runtime"], "--runtime and --no-runtime: give one"),
    ],
)
def test_the_command_refuses(tiny_bundle, tmp_path, options, words):
    done = command(tiny_bundle, "-o", tmp_path / "out", *options)
    assert done.exit_code == 2 and words in done.output
    assert not (tmp_path / "out").exists()


def test_the_command_compiles_first(tmp_path):
    demo = Path(str(files("tvmquant") / "assets" / "demo.onnx"))
    done = command(demo, "-o", tmp_path / "out", "--bits", "w4a8", "--static")
    assert done.exit_code == 0 and "w4a8 for host" in done.output, done.output
    assert not (tmp_path / "out" / "model.so").exists()
    assert "(2 runs, " in run(tmp_path / "out", "--bench", "2")
