"""The thread pool."""

import pytest
import tvm

from tvmquant.errors import InputError
from tvmquant.runtime.threads import pool_size, use_threads


def threads_now():
    return int(tvm.get_global_func("runtime.NumThreads")())


def test_threads_are_lowered_and_restored():
    before = threads_now()
    with use_threads(1) as used:
        assert used == threads_now() == 1
    assert threads_now() == before


def test_none_means_the_whole_pool():
    with use_threads(1), use_threads(None) as used:
        assert used == pool_size()


def test_threads_are_restored_after_an_error():
    before = threads_now()
    with pytest.raises(RuntimeError), use_threads(1):
        raise RuntimeError
    assert threads_now() == before


@pytest.mark.parametrize("wrong", [0, -1, 4096])
def test_impossible_numbers_are_refused(wrong):
    before = threads_now()
    with pytest.raises(InputError, match="threads"), use_threads(wrong):
        pass
    assert threads_now() == before
