"""Servers with a GPU: what they are asked, and what becomes of a GPU that is lost."""

import re
import shutil
from dataclasses import replace
from importlib.resources import files

import pytest
from click.testing import CliRunner
from remote_tools import serving
from simulated_gpu import NAME, on_this_machine
from test_tuning_cuda import GPU, LAYER

import tvmquant
from tvmquant.cli import main
from tvmquant.remote.address import Address
from tvmquant.remote.device import DeviceInfo
from tvmquant.remote.model import RemoteModel, why_not_there
from tvmquant.remote.session import Session as Link
from tvmquant.runtime.gpu import device_for
from tvmquant.runtime.manifest import Manifest
from tvmquant.tuning import remote_session
from tvmquant.tuning.candidates import candidates
from tvmquant.tuning.remote_session import BoardSession, BuildSession
from tvmquant.tuning.session import Job
from tvmquant.tuning.timing import is_gpu

DEMO = files("tvmquant") / "assets" / "demo.onnx"
CODE = Manifest((), (), (), "w8a8", target_json=GPU.target_json, cuda_archs=["sm_90a"])


@pytest.fixture
def job(tmp_path):
    """A candidate for this machine, its library, and its reference."""
    default = candidates(LAYER, GPU)[0]
    job = Job(LAYER, GPU, default.rule, default.config, str(tmp_path / "reference.npz"))
    builder, job = BuildSession(), on_this_machine(job)
    builder.build(0, job)
    builder.compile(job, str(tmp_path / "kernel.so"))
    return job


@pytest.fixture
def with_gpu(monkeypatch):
    """Servers say that they have a GPU."""
    told = Link.info.fget
    answer = property(lambda self: replace(told(self), gpu=NAME, gpu_arch="sm_90"))
    monkeypatch.setattr(Link, "info", answer)


def test_a_candidate_runs_where_the_gpu_is(with_gpu, job, tmp_path, monkeypatch):
    library = str(tmp_path / "kernel.so")
    with serving() as server:
        session = BoardSession()
        assert session.open(Address.of(server.address), "", 30.0, 1, GPU) == NAME
        rpc = session._link.rpc
        assert is_gpu(rpc.cuda(0)) and not is_gpu(rpc.cpu(0))
        assert is_gpu(device_for(CODE, rpc)) and not is_gpu(
            device_for(Manifest((), (), (), ""), rpc)
        )
        assert session.run(job, library, 1.0).kind == "time"
        # There is no GPU: what asks for one is the candidate's fault only while the GPU answers.
        on_gpu = replace(job, device=GPU, **default_of(GPU))
        assert session.run(on_gpu, library, 1.0).kind == "lost"
        monkeypatch.setattr(remote_session, "is_healthy", lambda device: True)
        assert session.run(on_gpu, library, 1.0).kind == "failed"
        assert session.run(job, library, 1.0).kind == "time"
        session.close()


def default_of(device):
    default = candidates(LAYER, device)[0]
    return {"rule": default.rule, "config": default.config}


def test_models_are_only_sent_where_they_run():
    info = DeviceInfo("CPU", GPU.architecture, ("avx2",), gpu=NAME, gpu_arch="sm_90")
    assert why_not_there(CODE, None, info) is None
    for other, words in (
        (replace(info, gpu="", gpu_arch=""), r"NVIDIA GPU \(sm_90\), the device has none"),
        (replace(info, gpu_arch="sm_100"), "GPU of the device is sm_100: .* target cuda-sm_100"),
    ):
        assert re.search(words, why_not_there(CODE, None, other))


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
@pytest.mark.filterwarnings("ignore:no calibration data")
def test_the_commands_say_that_the_device_has_no_gpu(tmp_path):
    folder = tmp_path / "model"
    tvmquant.compile(DEMO, "cuda-sm_90", 8, input_shapes={"image": (1, 1, 28, 28)}).save(folder)
    with serving() as server:
        for command in (("bench", folder), ("bench", folder, "--rpc", server.address)):
            result = CliRunner().invoke(main, [str(word) for word in command])
            assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
            assert "compiled for an NVIDIA GPU (sm_90)" in result.stderr
        link = Link(server.address)
        with pytest.raises(tvmquant.errors.TargetError, match="the device has none"):
            RemoteModel.from_bundle(folder, link)
