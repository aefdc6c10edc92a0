"""Which C compiler is used for what."""

import pytest

from tvmquant.errors import BundleError
from tvmquant.runtime import toolchain
from tvmquant.runtime.bundle import elf_architecture
from tvmquant.runtime.toolchain import find_toolchain, machine

FOREIGN = "aarch64" if machine() != "aarch64" else "x86_64"


@pytest.fixture
def installed(monkeypatch):
    """Only the commands that the test names are installed."""
    commands = set()

    def which(name):
        return f"/usr/bin/{name}" if name in commands else None

    monkeypatch.setattr(toolchain.shutil, "which", which)
    monkeypatch.delenv("CC", raising=False)
    return commands


def test_a_cross_compiler_that_is_installed_is_used(installed):
    installed |= {"gcc", f"{FOREIGN}-linux-gnu-gcc"}
    assert find_toolchain(FOREIGN).command == (f"/usr/bin/{FOREIGN}-linux-gnu-gcc",)


def test_the_compiler_of_this_machine(installed, monkeypatch):
    installed |= {"clang", "cc", "special-cc"}
    assert find_toolchain(machine()).name == "clang"
    monkeypatch.setenv("CC", "special-cc")
    assert find_toolchain(machine()).command == ("/usr/bin/special-cc",)


@pytest.mark.parametrize("architecture", ["aarch64", "arm", "x86_64"])
def test_zig_makes_code_for_all(installed, tmp_path, architecture):
    pytest.importorskip("ziglang")
    source, library = tmp_path / "one.c", tmp_path / "one.so"
    source.write_text("#include <math.h>\ndouble one(double x) { return sin(x); }\n")
    compiler = find_toolchain(architecture)
    assert compiler.name == "zig cc"
    compiler.link_shared(str(library), [str(source)])
    assert elf_architecture(library) == architecture
    if architecture != "arm":  # there zig brings its own
        assert b"libm.so.6" in library.read_bytes()
    source.write_text("#error no such thing\n")
    with pytest.raises(RuntimeError, match=r"zig cc failed: .*no such thing"):
        compiler.link_shared(str(library), [str(source)])


def test_without_any_the_remedy_is_named(installed, monkeypatch):
    installed |= {"gcc"} if FOREIGN != machine() else set()
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BundleError, match=r"python -m pip install ziglang") as caught:
        find_toolchain(FOREIGN)
    assert f"{FOREIGN}-linux-gnu-gcc" in str(caught.value)
