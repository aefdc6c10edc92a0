"""The server and the tracker: what they survive, refuse and say."""

import json
import os
import signal
import socket
import struct
import time

import psutil
import pytest
from click.testing import CliRunner
from remote_tools import Process, free_port, serving, tracking, wait_for_boards

from tvmquant.cli import main
from tvmquant.errors import InputError, RemoteError
from tvmquant.remote import Address, Session
from tvmquant.remote.device import DeviceInfo, this_device
from tvmquant.remote.tracker import TrackerClient
from tvmquant.runtime.manifest import current_versions


def children(server):
    return psutil.Process(server.popen.pid).children()


def gone(process, seconds=100):
    try:
        process.wait(seconds)
    except psutil.TimeoutExpired:
        return False
    return True


def test_addresses():
    assert Address.of("pi:9090") == Address("pi", 9090)
    assert str(Address.of("[::1]:9090")) == "[::1]:9090" and Address.of("[::1]:9090").host == "::1"
    assert [Address(h, 1).is_local for h in ("localhost", "127.0.0.1", "::1")] == [True] * 3
    assert [Address(h, 1).is_local for h in ("0.0.0.0", "10.0.0.7", "pi")] == [False] * 3
    for wrong in ("pi", "pi:", ":9090", "pi:x", "pi:0", "pi:65536"):
        with pytest.raises(InputError, match="write HOST:PORT"):
            Address.of(wrong)


def test_a_device_describes_itself():
    info = this_device()
    assert DeviceInfo.from_json(info.to_json()) == info
    assert info.machine == os.uname().machine and info.cores >= 1 and info.memory_mb > 100
    assert info.versions == current_versions() and info.cpu in str(info)
    for text in ("nonsense", "[]", '{"cpu": "x"}'):
        with pytest.raises(ValueError):
            DeviceInfo.from_json(text)


def test_a_crashed_session_does_not_end_the_server():
    with serving() as server:
        with Session(server.address) as session:
            assert session.info.machine
            (child,) = children(server)
            child.kill()
            with pytest.raises(RemoteError, match=f"lost {server.address}"):
                session.function("tvm.rpc.server.workpath")
        server.wait_for("session crashed")
        with Session(server.address) as session:
            assert session.info.machine
            (child,) = children(server)
        assert gone(child)


def test_a_session_ends_with_its_client_even_if_it_hangs():
    with serving() as server:
        session = Session(server.address)
        assert session.info.machine
        (child,) = children(server)
        child.send_signal(signal.SIGSTOP)
        session.close()
        assert gone(child)
        server.wait_for("ended by force")
        Session(server.address).close()


def test_what_speaks_another_protocol_is_sent_away():
    with serving() as server:
        host, _, port = server.address.rpartition(":")
        for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"", struct.pack("<ii", 0xFF271, 1 << 30)):
            with socket.create_connection((host, int(port)), 5) as stray:
                stray.sendall(greeting)
        Session(server.address).close()
        assert server.output.count("refused 127.0.0.1") == 3


def test_a_stopped_server_takes_its_session_along():
    with serving() as server:
        session = Session(server.address)
        assert session.info
        (child,) = children(server)
        os.kill(server.popen.pid, signal.SIGKILL)  # not even asked to stop
        assert gone(child)
        session.close()
    with serving() as server:
        os.kill(server.popen.pid, signal.SIGTERM)
        assert server.popen.wait(20) == 0 and server.wait_for("stopped")


def test_wide_open_servers_warn():
    process = Process("serve", "--host", "0.0.0.0", "--port", free_port())
    try:
        process.wait_for("open to the network: whoever reaches it can run any code")
    finally:
        process.kill()


def test_the_tracker_knows_its_devices():
    with tracking() as tracker:
        client = TrackerClient(tracker.address)
        assert client.fleet().boards == ()
        with pytest.raises(RemoteError, match=r"no device with key 'rpi4'.*none at all"):
            Session.from_tracker(tracker.address, "rpi4")
        with serving("--tracker", tracker.address, "--key", "rpi4") as server:
            wait_for_boards(tracker.address, "rpi4", 1)
            fleet = client.fleet()
            assert fleet.keys == ["rpi4"] and fleet.of("rpi4") == [Address.of(server.address)]
            listed = CliRunner().invoke(main, ["devices", "--tracker", tracker.address, "--json"])
            assert json.loads(listed.stdout)["rpi4"] == {
                "devices": [server.address],
                "free": 1,
                "waiting": 0,
            }
            table = CliRunner().invoke(main, ["devices", "--tracker", tracker.address]).stdout
            assert server.address in table
            with pytest.raises(RemoteError, match=r"no device with key 'rpi5'.*it has rpi4"):
                Session.from_tracker(tracker.address, "rpi5")
            with Session.from_tracker(tracker.address, "rpi4") as session:
                assert session.info.machine and str(session.address) == server.address
                with pytest.raises(RemoteError, match=r"the only device with key .* is in use"):
                    Session.from_tracker(tracker.address, "rpi4", wait=0.5)
            wait_for_boards(tracker.address, "rpi4", 1)
            with pytest.raises(RemoteError, match="only reached through --tracker"):
                Session(server.address, "rpi4")
        end = time.monotonic() + 20
        while client.fleet().boards and time.monotonic() < end:
            time.sleep(0.1)
        assert client.fleet().boards == ()  # a device that died is no longer listed


def test_a_device_registers_again_with_a_new_tracker():
    with tracking() as tracker, serving("--tracker", tracker.address, "--key", "x") as server:
        wait_for_boards(tracker.address, "x", 1)
        port = tracker.address.rpartition(":")[2]
        tracker.kill()
        server.wait_for("no tracker at")
        again = Process("tracker", "--port", port)
        try:
            wait_for_boards(tracker.address, "x", 1)
        finally:
            again.kill()


def test_clients_of_tvm_itself_are_served(tmp_path):
    from tvm import rpc

    (tmp_path / "note").write_bytes(b"hello")
    with tracking() as tracker, serving("--tracker", tracker.address, "--key", "x") as server:
        wait_for_boards(tracker.address, "x", 1)
        host, _, port = tracker.address.rpartition(":")
        session = rpc.connect_tracker(host, int(port)).request("x", session_timeout=60)
        session.upload(str(tmp_path / "note"))
        assert bytes(session.download("note")) == b"hello"
        del session
        server.wait_for("session ended")
    with serving() as server:
        host, _, port = server.address.rpartition(":")
        session = rpc.connect(host, int(port), session_timeout=1)
        assert session.get_function("runtime.NumThreads")() >= 1
        server.wait_for("ended by force")  # its time is over
        del session


def test_what_is_no_tracker():
    with pytest.raises(RemoteError, match="refuses the connection: start tvmquant tracker"):
        TrackerClient(f"127.0.0.1:{free_port()}").fleet()
    with serving() as server, pytest.raises(RemoteError, match="is not a TVM tracker"):
        TrackerClient(server.address).fleet()


def refused(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
    return result.stderr


def test_commands_refuse_what_makes_no_sense():
    assert "needs --key" in refused("serve", "--tracker", "pi:9190")
    assert "without spaces" in refused("serve", "--key", "my pi")
    assert "write HOST:PORT" in refused("serve", "--tracker", "pi", "--key", "x")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for command in ("serve", "tracker"):
            assert f"cannot listen on 127.0.0.1:{port}" in refused(command, "--port", port)
