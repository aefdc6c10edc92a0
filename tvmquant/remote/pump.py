"""Passes bytes between a client and a device; a script of its own that imports no package.

Usage: ``pump.py DEVICE LISTENER SERVER_KEY TIMEOUT`` with two inherited file descriptors, a
connection to a device that has been greeted and a listening socket for one client. Writes why it
ended to stdout.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import time

_SUCCESS = 0xFF271
_CHUNK = 1 << 18


def greet(client: socket.socket, server_key: str) -> None:
    """Answer the client's greeting in the place of the device."""
    head = _read(client, 8)
    _read(client, struct.unpack("<i", head[4:])[0])
    key = server_key.encode()
    client.sendall(struct.pack("<ii", _SUCCESS, len(key)) + key)


def pump(client: socket.socket, device: socket.socket, timeout: float) -> str:
    """Pass bytes on until an end closes; why it ended.

    Raises
    ------
    TimeoutError
        If the device owes an answer for longer than ``timeout`` seconds.
    """
    owed_since: float | None = None
    while True:
        wait = None if owed_since is None else owed_since + timeout - time.monotonic()
        if wait is not None and wait <= 0:
            raise TimeoutError
        ready, _, _ = select.select([client, device], [], [], wait)
        if device in ready:
            data = device.recv(_CHUNK)
            if not data:
                return "the device closed the connection"
            client.sendall(data)
            owed_since = None
        if client in ready:
            data = client.recv(_CHUNK)
            if not data:
                return "closed"
            device.sendall(data)
            owed_since = time.monotonic()


def main() -> None:
    """See the module."""
    timeout = float(sys.argv[4])
    device, listener = (socket.socket(fileno=int(text)) for text in sys.argv[1:3])
    try:
        for link in (device, listener):
            link.settimeout(timeout)
        client, _ = listener.accept()
        listener.close()
        client.settimeout(timeout)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        greet(client, sys.argv[3])
        why = pump(client, device, timeout)
    except TimeoutError:
        why = f"no answer within {timeout:g} s"
    except OSError as error:
        why = str(error.strerror or error)
    # Said before the sockets close: whoever sees that can read it at once.
    with contextlib.suppress(OSError):  # nobody may be there any more
        os.write(1, why.encode() + b"\n")


def _read(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = link.recv(count - len(data))
        if not chunk:
            raise ConnectionResetError("closed")
        data += chunk
    return data


if __name__ == "__main__":
    main()
