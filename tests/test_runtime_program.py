"""The program below a compiled model: when it is loaded, and runs of many threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import tiny_reference

from tvmquant.runtime.program import Program


@pytest.fixture
def loads():
    return []


@pytest.fixture
def program(tiny_build, loads):
    executable, manifest = tiny_build

    def load():
        loads.append(executable)
        return executable.jit()

    return Program(manifest, load)


def test_it_is_loaded_once_and_not_before_the_first_run(program, loads, tiny_inputs):
    assert not loads and program.start_seconds == 0
    for _ in range(2):
        program.run(list(tiny_inputs.values()))
    assert len(loads) == 1 and program.start_seconds > 0


def test_runs_from_many_threads_agree(program, tiny_inputs):
    want = tiny_reference(**tiny_inputs)
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(program.run, list(tiny_inputs.values())) for _ in range(40)]
    for run in runs:
        for got, array in zip(run.result(), want, strict=True):
            np.testing.assert_allclose(got, array, rtol=1e-5, atol=1e-6)


def test_main_takes_tensors_and_is_left_for_the_next(program, tiny_inputs):
    tensors = program.tensors(tiny_inputs)
    with program.main() as main:
        first = main(*tensors)[0].numpy()
    np.testing.assert_array_equal(program.run(list(tiny_inputs.values()))[0], first)
    assert [tensor.shape for tensor in program.tensors(None)] == [t.shape for t in tensors]
