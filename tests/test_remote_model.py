"""Models on a server of this machine: same numbers, times, memory, and what can go wrong."""

import json
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_reference
from remote_tools import Process, free_port, pretender, serving

import tvmquant
from tvmquant.errors import BundleError, InputError, RemoteError, TargetError
from tvmquant.remote import RemoteModel, Session
from tvmquant.remote.device import DeviceInfo
from tvmquant.remote.model import why_not_there
from tvmquant.runtime.bundle import LIBRARY, read_manifest


@pytest.fixture(scope="module")
def server():
    with serving() as process:
        yield process


@pytest.fixture(scope="module")
def plain_server():
    """TVM's own server, which knows nothing of tvmquant."""
    code = (
        "from tvm.rpc.server import PopenRPCServerState as S\n"
        "import sys\n"
        "state = S('127.0.0.1', int(sys.argv[1]), int(sys.argv[1]) + 1)\n"
        "print(f'serving on 127.0.0.1:{state.port}', flush=True)"
    )
    process = Process(free_port(), command=(sys.executable, "-c", code))
    yield process
    process.kill()


@pytest.fixture
def remote(server, tiny_bundle):
    with RemoteModel.from_bundle(tiny_bundle, Session(server.address)) as model:
        yield model


def test_a_remote_model_gives_the_numbers_of_the_local_one(remote, tiny_model, tiny_inputs):
    for x in (tiny_inputs, {k: -v for k, v in tiny_inputs.items()}):
        for found, wanted in zip(remote(*x.values()), tiny_model(*x.values())):
            assert np.array_equal(found, wanted) and found.dtype == wanted.dtype
        assert remote.run(x).keys() == {"y", "z"}
    assert np.allclose(remote.run(tiny_inputs)["y"], tiny_reference(**tiny_inputs)[0], atol=1e-5)
    assert remote.inputs == tiny_model.inputs and remote.layers == tiny_model.layers


def test_bad_inputs_are_refused_before_they_travel(remote, tiny_inputs):
    with pytest.raises(InputError, match="missing 'shift'"):
        remote.run({"x": tiny_inputs["x"]})
    with pytest.raises(InputError, match="has shape"):
        remote(tiny_inputs["x"][:1], tiny_inputs["shift"])


def test_benchmark_tells_times_memory_and_processor(remote):
    seen = []
    result = remote.benchmark(repeats=7, warmup=2, progress=lambda *step: seen.append(step))
    assert 0 < result.min_ms <= result.p10_ms <= result.median_ms <= result.p90_ms
    assert (result.repeats, result.warmup, result.threads) == (7, 2, 1)
    assert result.peak_memory_mb >= result.resident_memory_mb > 10
    assert remote.device.cpu in result.device and str(remote.session.address) in str(result)
    assert seen[-1] == ("benchmark", 7, 7)
    assert json.dumps(result.to_dict())
    with pytest.raises(InputError, match="repeats"):
        remote.benchmark(repeats=0)
    with pytest.raises(InputError, match="cannot use 1000 threads"):
        remote.benchmark(repeats=1, threads=1000)


def test_profile_times_the_layers_there(remote):
    profile = remote.profile(repeats=3)
    assert [row.layer.name for row in profile.rows] == [layer.name for layer in remote.layers]
    times = [row.microseconds for row in profile.rows]
    assert all(us > 0 for us in times[:3]) and times[3] == 0  # the reshape is a view
    assert sum(row.share for row in profile.rows) == pytest.approx(1)
    with pytest.raises(InputError, match="at least 1"):
        remote.profile(repeats=0)


def test_compiled_models_go_there_by_themselves(server, tiny_model, tiny_inputs):
    with tiny_model.remote(server.address) as remote:
        assert np.array_equal(remote.run(tiny_inputs)["z"], tiny_model.run(tiny_inputs)["z"])
    for wrong in ({}, {"address": server.address, "tracker": server.address}):
        with pytest.raises(InputError, match="one of them"):
            tiny_model.remote(**wrong)
    with pytest.raises(InputError, match="needs a key"):
        tiny_model.remote(tracker=server.address)
    with pytest.raises(InputError, match="timeout"):
        tiny_model.remote(server.address, timeout=0)


def test_load_time_expansion_happens_there(server, tmp_path):
    """A Winograd kernel's weights are transformed by the device."""
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((64, 64, 3, 3)) * 0.02).astype(np.float32)
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    shape = [1, 64, 28, 28]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "conv",
        [info("x", onnx.TensorProto.FLOAT, shape)],
        [info("y", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    x = rng.standard_normal(shape).astype(np.float32)
    local = tvmquant.compile(model, calibration={"x": x})
    if not local.manifest.expanded_bytes:
        pytest.skip("this processor's kernel expands nothing")
    with local.remote(server.address) as remote:
        assert np.array_equal(remote(x), local(x))
        assert np.array_equal(remote(-x), local(-x))
        assert remote.benchmark(repeats=2).median_ms > 0
        assert remote.profile(repeats=2).total_us > 0


def test_the_server_of_tvm_itself_does_for_all_but_profiles(plain_server, tiny_bundle, tiny_inputs):
    session = Session(plain_server.address)
    with RemoteModel.from_bundle(tiny_bundle, session) as remote:
        expected = tiny_reference(**tiny_inputs)[0]
        assert np.allclose(remote.run(tiny_inputs)["y"], expected, atol=1e-5)
        result = remote.benchmark(repeats=3)
        assert result.median_ms > 0 and result.peak_memory_mb is None and remote.device is None
        assert "memory not available" in str(result)
        with pytest.raises(RemoteError, match="start tvmquant serve there"):
            remote.profile()


def test_a_device_of_another_kind_is_refused(server, tiny_bundle, tmp_path, edit_manifest):
    info = DeviceInfo("Cortex-A72", "aarch64", ("neon",), 4, 4000.0, {})
    manifest = read_manifest(tiny_bundle)
    assert "x86_64, the device is aarch64" in why_not_there(manifest, tiny_bundle / LIBRARY, info)
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name in ("model.so", "manifest.json"):
        (folder / name).write_bytes((tiny_bundle / name).read_bytes())
    for change, words in (
        ({"features": ["sve9"]}, "its processor lacks sve9"),
        ({"features": [], "versions": {"apache-tvm": "0.1"}}, "compiled with apache-tvm 0.1"),
    ):
        edit_manifest(folder, model=change)
        with pytest.raises(TargetError, match=words):
            RemoteModel.from_bundle(folder, Session(server.address))
    (folder / "model.so").write_bytes(b"")
    with pytest.raises(BundleError, match="checksum"):
        RemoteModel.from_bundle(folder, Session(server.address))
    Session(server.address).close()  # each refusal gave the device back


def test_a_library_that_the_device_cannot_load(plain_server, tmp_path):
    (tmp_path / "foreign.so").write_bytes(b"\x7fELF of nothing")
    with (
        Session(plain_server.address) as session,
        pytest.raises(RemoteError, match=r"cannot load foreign\.so"),
    ):
        session.load(tmp_path / "foreign.so")


def test_unreachable_devices_are_named():
    port = free_port()
    with pytest.raises(RemoteError, match=f"127.0.0.1:{port} refuses the connection"):
        Session(f"127.0.0.1:{port}")
    with pytest.raises(RemoteError, match=r"cannot reach no\.such\.host\.invalid:9090"):
        Session("no.such.host.invalid:9090", timeout=5)
    with pytest.raises(InputError, match="write HOST:PORT"):
        Session("somewhere")


def test_a_busy_device_and_a_wrong_key(server):
    with Session(server.address):
        with pytest.raises(RemoteError, match="another session is using the device"):
            Session(server.address, timeout=1)
    with pytest.raises(RemoteError, match="refuses the key 'rpi9'"):
        Session(server.address, "rpi9")


def test_a_hanging_device_is_given_up(tiny_bundle, tiny_inputs):
    with serving() as server:
        session = Session(server.address, timeout=6)
        remote = RemoteModel.from_bundle(tiny_bundle, session)
        server.signal(signal.SIGSTOP)
        with pytest.raises(RemoteError, match=f"lost {server.address} .*no answer within 6 s"):
            remote.run(tiny_inputs)
        assert session.lost
        with pytest.raises(RemoteError, match="lost"):
            remote.benchmark(repeats=1)
        del remote, session


def test_a_device_that_dies_is_named(tiny_bundle):
    with serving() as server:
        remote = RemoteModel.from_bundle(tiny_bundle, Session(server.address))
        threading.Timer(0.5, server.kill).start()
        end = time.monotonic() + 30
        with pytest.raises(RemoteError, match=f"lost {server.address} .*look after the device"):
            while time.monotonic() < end:
                remote.benchmark(repeats=2000)
        del remote


def test_servers_that_talk_nonsense():
    with pretender(lambda link, _: link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 50)) as where:
        with pytest.raises(RemoteError, match=where):
            with Session(where, timeout=2) as session:
                session.load(Path(__file__))
