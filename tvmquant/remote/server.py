"""The server on the device: TVM's RPC protocol, one session at a time in a process of its own.

TVM's own server ends for good when a session crashes and keeps a session that hangs; candidates
of a tuner do both. This one ends a session when its client leaves, and goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from tvmquant.remote import wire
from tvmquant.remote.address import Address

# Where TVM's own server looks for a port.
PORTS = range(9090, 9200)

_GREETING_SECONDS = 10.0
# How often the tracker is asked whether it has given this device away.
_PERIOD = 2.0
# After this long an offer that was taken but not used is renewed.
_UNUSED_SECONDS = 6.0
_RETRY_SECONDS = 5.0
# A session may end by itself for this long after its client has left.
_GRACE_SECONDS = 3.0

Say = Callable[[str], Any]


class Server:
    """Serves sessions until it is interrupted.

    Parameters
    ----------
    listener : socket.socket
        Bound and listening.
    key : str
        What clients must name.
    tracker : Address, optional
        Where to register.
    say : callable
        Gets a line for each event.
    """

    def __init__(
        self, listener: socket.socket, key: str, tracker: Address | None, say: Say
    ) -> None:
        self.key, self.tracker, self.say = key, tracker, say
        self._listener = listener
        self._port = int(listener.getsockname()[1])
        wire.keep_alive(listener)  # accepted connections inherit it
        self._link: socket.socket | None = None
        self._offer, self._unused_since = key, 0.0

    def run(self) -> None:
        """Serve one client after the other."""
        while True:
            client, limit = self._next()
            with client:
                self._serve(client, limit)

    def _next(self) -> tuple[socket.socket, float | None]:
        """The next client with the right key, and the seconds that it asks for."""
        self._register(new=True)
        while True:
            ready, _, _ = select.select([self._listener], [], [], _PERIOD)
            if not ready:
                self._register()
                continue
            try:
                client, where = self._listener.accept()
            except OSError:
                continue
            try:
                greeted = self._greet(client)
            except (OSError, wire.ProtocolError):
                greeted = None
            if greeted is not None:
                self.say(f"session with {where[0]}")
                return client, greeted[0]
            self.say(f"refused {where[0]}: another key or another protocol")
            client.close()

    def _greet(self, client: socket.socket) -> tuple[float | None] | None:
        """Time limit of a welcome client, ``None`` for another one."""
        client.settimeout(_GREETING_SECONDS)
        if wire.read_number(client) != wire.MAGIC:
            return None
        name, *options = wire.read_text(client).split() or [""]
        if name != f"client:{self._offer}":
            client.sendall(wire.number(wire.MISMATCH))
            return None
        client.sendall(wire.number(wire.SUCCESS))
        wire.send_text(client, f"server:{self.key}")
        client.settimeout(None)
        limits = [o.removeprefix("-timeout=") for o in options if o.startswith("-timeout=")]
        try:
            return (float(limits[0]) if limits else None,)
        except ValueError:
            return (None,)

    def _register(self, new: bool = False) -> None:
        """Keep the tracker's entry up to date; a lost tracker is tried again at every call."""
        if self.tracker is None:
            return
        try:
            if self._link is None:
                self._link = wire.open_tracker(*_pair(self.tracker), _GREETING_SECONDS)
                who = {"key": f"server:{self.key}", "addr": (None, self._port)}
                wire.ask_tracker(self._link, wire.CODE.UPDATE_INFO, who)
                self.say(f"registered at the tracker {self.tracker} as {self.key}")
                new = True
            pending = wire.ask_tracker(self._link, wire.CODE.GET_PENDING_MATCHKEYS)
            if self._offer in pending and not new:
                self._unused_since = time.monotonic()
            elif new or time.monotonic() - self._unused_since > _UNUSED_SECONDS:
                self._offer = f"{self.key}:{random.random()}"
                offer = (self._port, self._offer)
                wire.ask_tracker(self._link, wire.CODE.PUT, self.key, offer, None)
                self._unused_since = time.monotonic()
        except (OSError, wire.ProtocolError, TypeError) as error:
            if self._link is not None or new:
                self.say(f"no tracker at {self.tracker} ({error}): trying again")
            if self._link is not None:
                self._link.close()
                self._link = None
            time.sleep(_RETRY_SECONDS)

    def _serve(self, client: socket.socket, limit: float | None) -> None:
        # Forked: the client's connection and all that is loaded are there at once.
        process = multiprocessing.get_context("fork").Process(target=_session, args=(client,))
        process.start()
        end = None if limit is None else time.monotonic() + limit
        gone = select.poll()
        gone.register(client, getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR)
        gone.register(process.sentinel, select.POLLIN)
        left = False
        while process.is_alive() and not left:
            wait = None if end is None else max(0.0, end - time.monotonic())
            events = dict(gone.poll(None if wait is None else wait * 1000))
            left = client.fileno() in events or not events
        process.join(_GRACE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            self.say("session ended by force: its client left or its time was over")
        elif process.exitcode:
            self.say(f"session crashed (exit code {process.exitcode})")
        else:
            self.say("session ended")


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket; without a port the first free one of :data:`PORTS`.

    Raises
    ------
    OSError
        If there is none.
    """
    family = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0][0]
    problem: OSError = OSError("no free port")
    for number in PORTS if port is None else (port,):
        try:
            return socket.create_server((host, number), family=family)
        except OSError as error:
            problem = error
    raise problem


def _session(client: socket.socket) -> None:
    """The process of a session."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            # Not to outlive the server: PR_SET_PDEATHSIG.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    from tvm.rpc import server
    from tvm.support import utils

    from tvmquant.remote.device import offer

    server.logger.setLevel("WARNING")
    offer()
    folder = utils.tempdir()
    os.chdir(folder.path)
    try:
        server._serve_loop(client, None, folder)
    finally:
        os.chdir("/")
        folder.remove()


def _pair(address: Address) -> tuple[str, int]:
    return address.host, address.port
