"""Targets of NVIDIA GPUs."""

import json

import pytest

from tvmquant.targets import get_device
from tvmquant.targets.cuda import cuda_target


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
