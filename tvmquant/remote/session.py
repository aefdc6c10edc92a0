"""A session on a device: files, functions, modules; every failure is a :class:`RemoteError`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvmquant.errors import InputError, RemoteError
from tvmquant.remote import device as _device
from tvmquant.remote.address import Address
from tvmquant.remote.device import DeviceInfo
from tvmquant.remote.relay import Relay
from tvmquant.remote.tracker import TrackerClient

TIMEOUT = 60.0


class Session:
    """A connection to a device; nobody else can use the device until it is closed.

    Parameters
    ----------
    address : Address or str
        ``HOST:PORT`` of ``tvmquant serve`` or of TVM's own RPC server.
    key : str
        What that server was started with.
    timeout : float
        Seconds that any single answer may take.

    Raises
    ------
    RemoteError
        If the device cannot be reached, is busy, or refuses the key.
    """

    def __init__(self, address: Address | str, key: str = "", timeout: float = TIMEOUT) -> None:
        if not timeout > 0:
            raise InputError(f"timeout must be positive, got {timeout}")
        self.address = Address.of(address)
        self._relay = Relay(self.address, key, timeout)
        from tvm import rpc

        try:
            with self.talking("open a session"):
                self.rpc = rpc.connect("127.0.0.1", self._relay.port)
        except BaseException:
            self._relay.close()
            raise
        self._info: DeviceInfo | None = None
        self._functions: dict[str, Callable[..., Any] | None] = {}

    @classmethod
    def from_tracker(
        cls, tracker: Address | str, key: str, timeout: float = TIMEOUT, wait: float = TIMEOUT
    ) -> Session:
        """Let a tracker choose a device.

        Parameters
        ----------
        tracker : Address or str
        key : str
            Kind of device.
        timeout : float
            As above.
        wait : float
            Seconds to wait for a device that is not in use.

        Raises
        ------
        RemoteError
            If there is no such device, or none becomes free.
        InputError
            If there is no key.
        """
        if not key:
            raise InputError("a tracker needs a key: say which kind of device, for example rpi4")
        grant = TrackerClient(tracker).request(key, wait)
        return cls(grant.address, grant.key, timeout)

    @contextmanager
    def talking(self, what: str) -> Iterator[None]:
        """Turn failures of the body's remote calls into a :class:`RemoteError`.

        Parameters
        ----------
        what : str
            What is being done, as in "cannot …".
        """
        try:
            yield
        except (InputError, RemoteError):
            raise
        except Exception as error:
            why = self._relay.why(failed=_lost(error))
            if why or _lost(error):
                raise RemoteError(
                    f"lost {self.address} while trying to {what} ({why or 'connection lost'}): "
                    "look after the device and run the command again"
                ) from None
            raise RemoteError(f"{self.address} cannot {what}: {_last_line(error)}") from None

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return bool(self._relay.why(failed=False))

    def function(self, name: str) -> Callable[..., Any] | None:
        """A function that the device offers, ``None`` if it does not."""
        if name not in self._functions:
            with self.talking(f"look up {name}"):
                try:
                    self._functions[name] = self.rpc.get_function(name)
                except AttributeError:
                    self._functions[name] = None
        return self._functions[name]

    @property
    def info(self) -> DeviceInfo | None:
        """What the device says about itself; ``None`` unless it runs ``tvmquant serve``."""
        tell = self.function(_device.INFO)
        if self._info is None and tell is not None:
            with self.talking("describe itself"):
                self._info = DeviceInfo.from_json(str(tell()))
        return self._info

    def load(self, library: Path) -> Any:
        """Send a shared library and load it there.

        Returns
        -------
        tvm.runtime.Module
            Lives on the device.
        """
        with self.talking(f"take {library.name}"):
            self.rpc.upload(str(library))
        with self.talking(f"load {library.name}"):
            return self.rpc.load_module(library.name)

    def remove(self, name: str) -> None:
        """Delete a file that was sent."""
        with self.talking(f"delete {name}"):
            self.rpc.remove(name)

    def close(self) -> None:
        """End the session; the device is free again."""
        self._relay.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_error: Any) -> None:
        self.close()


def connect(
    address: Address | str | None,
    tracker: Address | str | None,
    key: str = "",
    timeout: float = TIMEOUT,
) -> Session:
    """A session on the device at an address, or on one that a tracker chooses.

    Raises
    ------
    InputError
        If not exactly one of ``address`` and ``tracker`` is given.
    RemoteError
        See :class:`Session`.
    """
    if (address is None) == (tracker is None):
        raise InputError("give the address of a device or of a tracker, one of them")
    if tracker is not None:
        return Session.from_tracker(tracker, key, timeout)
    return Session(address, key, timeout)


def _lost(error: Exception) -> bool:
    return bool(re.search(r"socket|[Cc]onnection|closed|broken pipe", str(error)))


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
