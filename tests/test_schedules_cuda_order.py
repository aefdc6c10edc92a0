"""The order of blocks over the tiles of an output: what waves read, and that nothing is missed."""

import re
from dataclasses import replace

import pytest
from cuda_tools import check_kernel, launches_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedules_cuda import conv

from tvmquant.schedules.cuda import stages, warpgroup
from tvmquant.schedules.cuda.kernel import tensor_core_kernel
from tvmquant.schedules.cuda.order import best_band, touched_bytes
from tvmquant.schedules.cuda.warpgroup import warpgroup_kernel
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import ARCHES, arch_of

SIZES = st.integers(1, 40)
LARGE = Workload("matmul", (8192, 8192), (8192, 8192))


def walk(tiles, band):
    """Row and column of every block, in order."""
    rows, columns = tiles
    for first in range(0, rows, band):
        for column in range(columns):
            yield from ((row, column) for row in range(first, min(first + band, rows)))


def counted(tiles, tile_bytes, wave, band):
    """Bytes that waves touch, tile by tile."""
    blocks, total = list(walk(tiles, band)), 0
    for first in range(0, len(blocks), wave):
        rows, columns = map(set, zip(*blocks[first : first + wave]))
        total += len(rows) * tile_bytes[0] + len(columns) * tile_bytes[1]
    return total


def band_in(kernel):
    """What the source of a kernel says."""
    source = next(launch.source for launch in launches_of(kernel) if launch.name == kernel.name)
    return int(re.search(r"int BAND = (\d+);", source)[1])


@settings(max_examples=200, deadline=None)
@given(st.tuples(SIZES, SIZES), st.tuples(SIZES, SIZES), st.integers(1, 300), SIZES)
def test_bytes_are_those_of_the_tiles_that_waves_touch(tiles, tile_bytes, wave, band):
    assert touched_bytes(tiles, tile_bytes, wave, band) == counted(tiles, tile_bytes, wave, band)


@settings(max_examples=200, deadline=None)
@given(st.tuples(SIZES, SIZES), st.tuples(SIZES, SIZES), st.integers(1, 300), SIZES)
def test_waves_never_touch_more_than_row_by_row(tiles, tile_bytes, wave, cache):
    band = best_band(tiles, tile_bytes, wave, cache * 10)
    assert 1 <= band <= tiles[0]
    before, after = (counted(tiles, tile_bytes, wave, b) for b in (1, band))
    assert after < before if band > 1 else after == before


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_large_matrices_are_read_less_often(arch):
    make = warpgroup_kernel if arch == "sm_90" else tensor_core_kernel
    assert band_in(make(LARGE, arch_of(arch))) > 4
    # One wave, or all weights stay in the cache.
    for size in (512, 2048, 4096):
        layer = Workload("matmul", (size, size), (size, size))
        assert band_in(make(layer, arch_of(arch))) == 1
    assert band_in(make(conv((64, 56, 56, 64), 256, (1, 1)), arch_of(arch))) == 1
    assert best_band((64, 64), (1 << 20, 1 << 20), 132, 50 << 20) > 4
    assert best_band((64, 64), (1 << 20, 1 << 20), 132, 200 << 20) == 1
    assert best_band((64, 1), (1 << 20, 1 << 30), 16, 50 << 20) == 1


def test_every_architecture_has_a_cache():
    assert all(arch.cache_bytes >= 4 << 20 for arch in ARCHES.values())


SMALL = {"block_m": 16, "block_n": 8, "block_k": 32, "warp_m": 16, "warp_n": 8, "stages": 3}
FOUR = {"block_m": 32, "block_n": 64, "block_k": 64, "warp_m": 32, "warp_n": 64, "stages": 3}
WARPS = {"product": "U8S8", "slices": 1, "splits": 1, **SMALL}
MATMUL = Workload("matmul", (150, 200), (136, 200))
CONV = conv((1, 8, 15, 32), 136, (2, 3), padding=(0, 1, 1, 1), groups=2)
# Of 5 or 10 rows of tiles, the last band has fewer; 4 or 8 are whole bands.
FORMS = {
    "warps": (tensor_core_kernel, "sm_80", MATMUL, WARPS, 4),
    "warps, whole": (tensor_core_kernel, "sm_75", CONV, WARPS, 2),
    "in parts": (tensor_core_kernel, "sm_80", MATMUL, {**WARPS, "splits": 2}, 3),
    "four": (warpgroup_kernel, "sm_90", MATMUL, {**FOUR, "source": "shared"}, 3),
    "four, whole": (warpgroup_kernel, "sm_90", CONV, {**FOUR, "producers": 1}, 2),
}


def banded(monkeypatch, make, arch, layer, config, band):
    """A kernel that goes over bands of so many rows of tiles."""
    for module in (stages, warpgroup):
        monkeypatch.setattr(module, "band_of", lambda *_: band)
    kernel = make(layer, arch_of(arch))
    known = () if make is warpgroup_kernel else (layer,)
    return replace(kernel, plan=kernel.plan.with_config(config, *known))


@pytest.mark.parametrize(
    "form",
    [
        "warps",
        "four",
        *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS if " " in form),
    ],
)
def test_every_tile_is_computed(form, tmp_path, monkeypatch):
    kernel = banded(monkeypatch, *FORMS[form])
    assert band_in(kernel) == FORMS[form][-1]
    check_kernel(kernel, tmp_path, len(form))
