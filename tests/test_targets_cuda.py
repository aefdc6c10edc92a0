"""Targets of NVIDIA GPUs."""

import json

import pytest

from tvmquant.targets import get_device
from tvmquant.targets.cuda import arch_of, cuda_target


def test_the_code_that_launches_kernels_runs_on_any_processor():
    """Also on a machine whose processor has less than this one's."""
    given = json.loads(get_device("host").target_json)
    host = json.loads(get_device("cuda-sm_90").target_json)["host"]
    assert host["mtriple"] == given["mtriple"] and host["mcpu"] in ("x86-64-v2", "generic")
    assert "mattr" not in host


@pytest.mark.parametrize(
    "triple, cpu", [("x86_64-linux-gnu", "x86-64-v2"), ("aarch64-linux-gnu", "generic")]
)
def test_the_kind_of_processor_stays(triple, cpu):
    host = {"kind": "llvm", "mtriple": triple, "mcpu": "newest", "mattr": ["+more"]}
    found = cuda_target("cuda-sm_80", host)
    assert found["host"] == {"kind": "llvm", "mtriple": triple, "mcpu": cpu}
    assert found["arch"] == "sm_80" and host["mcpu"] == "newest"


@pytest.mark.parametrize(
    "arch, kilobytes, blocks",
    [("sm_90", 113, 2), ("sm_90", 113.5, 1), ("sm_90", 227, 1), ("sm_86", 49, 2), ("sm_75", 32, 2)],
)
def test_blocks_share_the_memory_of_a_multiprocessor(arch, kilobytes, blocks):
    # 228 KB on sm_90, 100 on sm_86, of which each block's own kilobyte is a part; 64 on sm_75.
    assert arch_of(arch).blocks_by_memory(int(kilobytes * 1024)) == blocks
