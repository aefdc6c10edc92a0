"""The package itself: names, laziness, threads."""

import os
import subprocess
import sys

import pytest

import tvmquant


def run_python(code, **environment):
    env = {k: v for k, v in os.environ.items() if k != "TVM_NUM_THREADS"} | environment
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", tvmquant.__all__)
def test_every_exported_name_is_there(name):
    assert getattr(tvmquant, name) is not None and name in dir(tvmquant)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="'tvmquant' has no attribute 'compyle'"):
        _ = tvmquant.compyle


def test_importing_does_not_import_tvm():
    assert run_python("import sys, tvmquant; print('tvm' in sys.modules)") == "False"


def test_threads_default_to_cores_and_the_user_wins():
    show = "import os, tvmquant; print(os.environ['TVM_NUM_THREADS'])"
    assert 1 <= int(run_python(show)) <= os.cpu_count()
    assert run_python(show, TVM_NUM_THREADS="3") == "3"


def test_the_version_is_that_of_the_distribution():
    from importlib import metadata

    assert tvmquant.__version__ == metadata.version("tvmquant")
