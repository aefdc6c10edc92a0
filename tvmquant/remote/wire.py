"""The messages that open TVM's connections, as ``tvm.rpc`` sends them.

A connection to a server starts with a magic number, the length of a key and the key; one to a
tracker with another magic number, then JSON after its length. All numbers are little-endian int32.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from tvm.rpc import base

SUCCESS, MISMATCH, MAGIC = base.RPC_CODE_SUCCESS, base.RPC_CODE_MISMATCH, base.RPC_MAGIC
TRACKER_MAGIC = base.RPC_TRACKER_MAGIC
CODE = base.TrackerCode

_LONGEST_KEY = 4096
_LONGEST_JSON = 1 << 24


class ProtocolError(Exception):
    """The other end does not speak this protocol."""


def read(link: socket.socket, count: int) -> bytes:
    """Exactly ``count`` bytes.

    Raises
    ------
    OSError
        If the connection ends before.
    """
    data = bytearray()
    while len(data) < count:
        chunk = link.recv(count - len(data))
        if not chunk:
            raise ConnectionResetError("the connection was closed")
        data += chunk
    return bytes(data)


def number(value: int) -> bytes:
    """int32 as it is sent."""
    return struct.pack("<i", value)


def read_number(link: socket.socket) -> int:
    """int32."""
    return int(struct.unpack("<i", read(link, 4))[0])


def read_text(link: socket.socket, longest: int = _LONGEST_KEY) -> str:
    """A length and so many bytes.

    Raises
    ------
    ProtocolError
        If the length is absurd or the bytes are no text.
    """
    length = read_number(link)
    if not 0 <= length <= longest:
        raise ProtocolError(f"a text of {length} bytes")
    try:
        return read(link, length).decode()
    except UnicodeDecodeError:
        raise ProtocolError("bytes that are no text") from None


def send_text(link: socket.socket, text: str) -> None:
    """The inverse of :func:`read_text`."""
    data = text.encode()
    link.sendall(number(len(data)) + data)


def ask_tracker(link: socket.socket, *request: Any) -> Any:
    """Send a request to a tracker and return its answer.

    Raises
    ------
    ProtocolError, OSError
    """
    send_text(link, json.dumps(request))
    try:
        return json.loads(read_text(link, _LONGEST_JSON))
    except ValueError:
        raise ProtocolError("an answer that is no JSON") from None


def open_tracker(host: str, port: int, timeout: float) -> socket.socket:
    """Connect to a tracker.

    Raises
    ------
    ProtocolError, OSError
    """
    link = socket.create_connection((host, port), timeout)
    try:
        keep_alive(link)
        link.sendall(number(TRACKER_MAGIC))
        if read_number(link) != TRACKER_MAGIC:
            raise ProtocolError("another answer than a tracker's")
    except BaseException:
        link.close()
        raise
    return link


def keep_alive(link: socket.socket) -> None:
    """Have the system notice within about two minutes that the other end is gone."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
