"""Saving and loading: all or nothing, and damage is noticed."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import build_tiny

import tvmquant
from tvmquant.errors import BundleError
from tvmquant.runtime import CompiledModel, bundle, toolchain
from tvmquant.runtime.save import _cannot_write


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    """A bundle that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_save_and_load_give_the_same_bytes(tiny_model, tiny_bundle, tiny_inputs):
    assert names(tiny_bundle) == ["manifest.json", "model.so"]
    loaded = tvmquant.load(tiny_bundle)
    assert loaded.manifest == tiny_model.manifest
    for name, array in tiny_model.run(tiny_inputs).items():
        assert loaded.run(tiny_inputs)[name].tobytes() == array.tobytes()


def test_a_fresh_process_loads_it(tiny_model, tiny_bundle, tiny_inputs, tmp_path):
    np.savez(tmp_path / "in.npz", **tiny_inputs)
    code = f"""
        import numpy as np, tvmquant
        model = tvmquant.load({str(tiny_bundle)!r})
        np.savez({str(tmp_path / "out.npz")!r}, **model.run(np.load({str(tmp_path / "in.npz")!r})))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    out = np.load(tmp_path / "out.npz")
    for name, array in tiny_model.run(tiny_inputs).items():
        np.testing.assert_array_equal(out[name], array)


def test_a_loaded_model_can_be_saved_again_even_over_itself(copy, tiny_inputs, tmp_path):
    loaded = tvmquant.load(copy)
    want = loaded.run(tiny_inputs)["y"]
    for folder in (tmp_path / "deep" / "er", copy):
        loaded.save(folder)
        np.testing.assert_array_equal(tvmquant.load(folder).run(tiny_inputs)["y"], want)
    assert names(tmp_path) == ["copy", "deep"]


def test_an_empty_folder_and_an_older_bundle_are_replaced(tiny_model, copy, tmp_path):
    (tmp_path / "empty").mkdir()
    (copy / "model.so").write_bytes(b"old")
    for folder in (tmp_path / "empty", copy):
        tiny_model.save(folder)
        assert names(folder) == ["manifest.json", "model.so"]
        tvmquant.load(folder)
    assert names(tmp_path) == ["copy", "empty"]


def test_the_current_folder_is_filled_in_place(tiny_model, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for _ in range(2):
        tiny_model.save(".")
        assert names(Path.cwd()) == ["manifest.json", "model.so"]


@pytest.mark.parametrize("stranger", ["notes.txt", "model.so", "manifest.json"])
def test_foreign_folders_are_refused_and_kept(tiny_model, tmp_path, stranger):
    (tmp_path / stranger).write_text("mine")
    with pytest.raises(BundleError, match="not empty and not a tvmquant model"):
        tiny_model.save(tmp_path)
    assert names(tmp_path) == [stranger] and (tmp_path / stranger).read_text() == "mine"


def test_a_bundle_with_a_foreign_file_is_refused(tiny_model, copy):
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="not empty"):
        tiny_model.save(copy)
    assert names(copy) == ["manifest.json", "model.so", "notes.txt"]


def test_unwritable_places_are_named(tiny_model, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "sub" / "dir"):
        with pytest.raises(BundleError, match="file") as caught:
            tiny_model.save(folder)
        assert str(folder) in str(caught.value) and "name a" in str(caught.value)
    assert names(tmp_path) == ["file"]


def test_a_failed_export_leaves_nothing_and_keeps_the_old_bundle(tiny_build, copy, tmp_path):
    def full(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    model = CompiledModel(tiny_build[1], tiny_build[0].jit, full)
    for folder in (copy, tmp_path / "a" / "b"):
        with pytest.raises(BundleError, match="No space left on device; free some space") as caught:
            model.save(folder)
        assert str(folder) in str(caught.value)
    assert names(tmp_path) == ["copy"]
    tvmquant.load(copy)


def test_a_full_disk(tmp_path):
    """A real one: a file system of 64 KB in a namespace of its own."""
    inside = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && "$@"']
    try:
        subprocess.run([*inside, str(tmp_path), "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not let a user mount a small file system")
    code = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from conftest import build_tiny
        from tvmquant.errors import BundleError
        from tvmquant.runtime import CompiledModel
        room = Path({str(tmp_path)!r})
        model = CompiledModel.from_build(*build_tiny())
        (room / "filler").write_bytes(bytes(60_000))
        try:
            model.save(room / "model")
        except BundleError as error:
            print(error)
        else:
            sys.exit("it fitted")
        assert [entry.name for entry in room.iterdir()] == ["filler"]
    """
    done = subprocess.run(
        [*inside, str(tmp_path), sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cannot write {tmp_path / 'model'}: ")
    assert done.stdout.count("\n") == 1


def test_without_a_linker_the_remedy_is_named(tiny_model, tmp_path, monkeypatch):
    from tvm.support import cc

    monkeypatch.setattr(cc, "get_cc", lambda: None)
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BundleError, match=r"python -m pip install ziglang"):
        tiny_model.save(tmp_path / "model")
    assert names(tmp_path) == []


def test_zig_links_where_there_is_no_c_compiler(tiny_model, tiny_inputs, tmp_path, monkeypatch):
    pytest.importorskip("ziglang")
    from tvm.support import cc

    monkeypatch.setattr(cc, "get_cc", lambda: None)
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    loaded = tvmquant.load(tiny_model.save(tmp_path / "model"))
    want = tiny_model.run(tiny_inputs)["y"]
    np.testing.assert_array_equal(loaded.run(tiny_inputs)["y"], want)


def test_not_a_bundle(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BundleError, match="is not a compiled model"):
            tvmquant.load(folder)


def test_damage_is_noticed(copy, edit_manifest):
    library = (copy / "model.so").read_bytes()
    (copy / "model.so").write_bytes(library[:-1] + b"!")
    with pytest.raises(BundleError, match="checksum"):
        tvmquant.load(copy)
    (copy / "model.so").unlink()
    with pytest.raises(BundleError, match=r"cannot read .*model\.so"):
        tvmquant.load(copy)
    (copy / "model.so").write_bytes(library)
    edit_manifest(copy, model={"inputs": 3})
    with pytest.raises(BundleError, match="damaged"):
        tvmquant.load(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="damaged"):
        tvmquant.load(copy)


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({"format": "other"}, {}, "is not from tvmquant"),
        ({"format_version": 99}, {}, "format version 99"),
        ({}, {"features": ["sve2", "amx"]}, "lacks amx, sve2"),
        ({}, {"versions": {"apache-tvm": "0.26.0"}}, "apache-tvm 0.26.0, installed is 0.27"),
    ],
)
def test_foreign_bundles_are_refused_by_name(copy, edit_manifest, changes, model, message):
    edit_manifest(copy, changes, model)
    with pytest.raises(BundleError, match=message) as caught:
        tvmquant.load(copy)
    assert str(copy) in str(caught.value)


def test_the_architecture_is_read_from_the_library(tiny_build, tmp_path):
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    header[18:20] = (243).to_bytes(2, "little")
    bundle.save_bundle(tmp_path / "m", tiny_build[1], lambda path: path.write_bytes(header))
    with pytest.raises(BundleError, match="compiled for riscv64, this machine is"):
        tvmquant.load(tmp_path / "m")
    assert bundle.read_manifest(tmp_path / "m") == tiny_build[1]
    assert bundle.bundle_bytes(tmp_path / "m") == 64


def test_a_library_that_cannot_be_opened(tmp_path):
    manifest = build_tiny()[1]
    bundle.save_bundle(tmp_path / "m", manifest, lambda path: path.write_bytes(b"no library"))
    with pytest.raises(BundleError, match="cannot load"):
        tvmquant.load(tmp_path / "m")


def test_the_library_has_no_symbol_table(tiny_bundle):
    if sys.platform != "linux":
        pytest.skip("ELF only")
    assert b".symtab" not in (tiny_bundle / "model.so").read_bytes()


@pytest.mark.parametrize(
    "error, told",
    [
        (OSError(28, "No space left on device"), "No space left on device; free some space"),
        (
            RuntimeError("zig cc failed:\nnote: x\na.c:3:1: error: no such thing\n"),
            "a.c:3:1: error",
        ),
    ],
)
def test_why_a_folder_cannot_be_written_is_what_the_message_says(tmp_path, error, told):
    message = str(_cannot_write(tmp_path, error))
    assert message.startswith(f"cannot write {tmp_path}: ") and told in message
    assert ("free some space" in message) == isinstance(error, OSError)
