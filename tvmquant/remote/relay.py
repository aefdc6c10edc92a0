"""A connection to a device with time limits, which TVM's own client lacks.

TVM's client waits for ever, in part while it keeps all threads of this process waiting. So it
talks to a process that passes the bytes on (:mod:`tvmquant.remote.pump`) and that, when the device
is silent for too long, closes both ends: the client's call fails.
"""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
from pathlib import Path

from tvmquant.errors import RemoteError
from tvmquant.remote import wire
from tvmquant.remote.address import Address

_PUMP = Path(__file__).with_name("pump.py")
# Time to end by itself, once a connection has failed.
_LAST_WORDS_SECONDS = 5.0


class Relay:
    """Connects to a device and lets one client of this machine use the connection.

    Parameters
    ----------
    address : Address
        Of the device.
    key : str
        Key that the device asks for.
    timeout : float
        Seconds that connecting, and each answer, may take.

    Raises
    ------
    RemoteError
        If the device cannot be reached, is busy, or refuses the key.

    Attributes
    ----------
    port : int
        On 127.0.0.1, for one client.
    """

    def __init__(self, address: Address, key: str, timeout: float) -> None:
        self._why = ""
        with contextlib.ExitStack() as stack:
            device = stack.enter_context(_connect(address, timeout))
            server_key = _handshake(device, address, key, timeout)
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
            self.port = int(listener.getsockname()[1])
            ends = (device.fileno(), listener.fileno())
            arguments = [*map(str, ends), server_key, str(timeout)]
            self._process = subprocess.Popen(
                [sys.executable, "-ES", str(_PUMP), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                pass_fds=ends,
                # Ctrl-C is for the client: it closes the connection.
                start_new_session=True,
                text=True,
            )

    @property
    def ended(self) -> bool:
        """Whether the connection is closed."""
        return self._process.poll() is not None

    def why(self, failed: bool) -> str:
        """Why the connection ended, empty as long as it holds.

        Parameters
        ----------
        failed : bool
            Whether a call failed, so that it may be about to end.
        """
        pipe = self._process.stdout
        if not self._why and pipe is not None and not pipe.closed:
            ready, _, _ = select.select([pipe], [], [], _LAST_WORDS_SECONDS if failed else 0)
            if ready:
                self._why = pipe.readline().strip() or "connection lost"
        return self._why

    def close(self) -> None:
        """End the connection."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._why = self._why or "closed"


def _connect(address: Address, timeout: float) -> socket.socket:
    try:
        link = socket.create_connection((address.host, address.port), timeout)
    except TimeoutError:
        raise RemoteError(
            f"{address} does not answer within {timeout:g} s: is the device on and in this network?"
        ) from None
    except ConnectionRefusedError:
        raise RemoteError(
            f"{address} refuses the connection: start tvmquant serve there (with --host for "
            "other machines than itself)"
        ) from None
    except OSError as error:
        raise RemoteError(f"cannot reach {address}: {error.strerror or error}") from None
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wire.keep_alive(link)
    return link


def _handshake(device: socket.socket, address: Address, key: str, timeout: float) -> str:
    """Greet the device and return its key."""
    try:
        device.sendall(wire.number(wire.MAGIC))
        wire.send_text(device, f"client:{key}")
        code = wire.read_number(device)
        if code == wire.MISMATCH:
            raise RemoteError(
                f"{address} refuses the key {key!r}: give the --key that tvmquant serve was "
                "started with; a device of a tracker is only reached through --tracker"
            )
        if code != wire.SUCCESS:
            raise wire.ProtocolError(f"code {code}")
        return wire.read_text(device)
    except TimeoutError:
        raise RemoteError(
            f"{address} accepts the connection but does not answer within {timeout:g} s: another "
            "session is using the device, or it hangs"
        ) from None
    except (OSError, wire.ProtocolError) as error:
        raise RemoteError(
            f"{address} is not a TVM RPC server ({error}): start tvmquant serve there"
        ) from None
