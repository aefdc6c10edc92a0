"""Asking a TVM tracker for devices, with time limits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tvmquant.errors import RemoteError
from tvmquant.remote import wire
from tvmquant.remote.address import Address

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Board:
    """A device that is registered at a tracker.

    Attributes
    ----------
    key : str
    address : Address
    """

    key: str
    address: Address


@dataclass(frozen=True)
class Fleet:
    """What a tracker knows.

    Attributes
    ----------
    boards : tuple of Board
        Registered devices, by key and address.
    free, waiting : dict of str to int
        By key: devices that nobody uses, requests that wait for one.
    """

    boards: tuple[Board, ...]
    free: dict[str, int]
    waiting: dict[str, int]

    def of(self, key: str) -> list[Address]:
        """Addresses of the devices with a key."""
        return [board.address for board in self.boards if board.key == key]

    @property
    def keys(self) -> list[str]:
        """All keys that have a device."""
        return sorted({board.key for board in self.boards})


@dataclass(frozen=True)
class Grant:
    """A device that the tracker has given away, and the key that opens it."""

    address: Address
    key: str


class TrackerClient:
    """Requests to a tracker; each opens a connection of its own.

    Parameters
    ----------
    address : Address or str
    timeout : float
        Seconds that an answer may take.
    """

    def __init__(self, address: Address | str, timeout: float = 20.0) -> None:
        self.address, self.timeout = Address.of(address, "tracker"), timeout

    def fleet(self) -> Fleet:
        """Everything that is registered.

        Raises
        ------
        RemoteError
            If the tracker cannot be reached.
        """
        data = self._ask(wire.CODE.SUMMARY, timeout=self.timeout)
        try:
            boards = []
            for item in data["server_info"]:
                host, port = item["addr"]
                key = str(item["key"]).removeprefix("server:")
                boards.append(Board(key, Address(str(host), int(port))))
            queues = {
                str(k): (int(q["free"]), int(q["pending"])) for k, q in data["queue_info"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._foreign("a summary that makes no sense") from None
        return Fleet(
            tuple(sorted(boards, key=lambda b: (b.key, str(b.address)))),
            {key: free for key, (free, _) in queues.items()},
            {key: pending for key, (_, pending) in queues.items()},
        )

    def request(self, key: str, wait: float = 60.0) -> Grant:
        """Get a device with a key; it must be connected to within some seconds.

        Parameters
        ----------
        key : str
        wait : float
            Seconds to wait while all of them are in use.

        Raises
        ------
        RemoteError
            If there is none, or none becomes free in time.
        """
        end = time.monotonic() + wait
        while True:
            fleet = self.fleet()
            # A request that waits in the tracker's queue cannot be told from a lost one: poll.
            if fleet.of(key) and fleet.free.get(key, 0) > 0:
                break
            if not fleet.of(key) or time.monotonic() >= end:
                raise self._none(key, fleet, wait)
            time.sleep(min(_POLL_SECONDS, max(0.0, end - time.monotonic())))
        answer = self._ask(wire.CODE.REQUEST, key, "", 1, timeout=self.timeout)
        try:
            host, port, matchkey = answer
            return Grant(Address(str(host), int(port)), str(matchkey))
        except (TypeError, ValueError):
            raise self._foreign("a device without an address") from None

    def _ask(self, *request: Any, timeout: float) -> Any:
        try:
            with wire.open_tracker(self.address.host, self.address.port, timeout) as link:
                code, value = wire.ask_tracker(link, *request)
        except TimeoutError:
            raise RemoteError(
                f"the tracker {self.address} does not answer within {timeout:g} s"
            ) from None
        except ConnectionRefusedError:
            raise RemoteError(
                f"the tracker {self.address} refuses the connection: start tvmquant tracker there"
            ) from None
        except (wire.ProtocolError, ConnectionResetError, TypeError, ValueError) as error:
            raise self._foreign(error) from None
        except OSError as error:
            raise RemoteError(
                f"cannot reach the tracker {self.address}: {error.strerror or error}"
            ) from None
        if code != wire.CODE.SUCCESS:
            raise self._foreign(f"code {code}")
        return value

    def _foreign(self, what: object) -> RemoteError:
        return RemoteError(
            f"{self.address} is not a TVM tracker ({what}): name the address of tvmquant tracker"
        )

    def _none(self, key: str, fleet: Fleet, wait: float) -> RemoteError:
        count = len(fleet.of(key))
        if count:
            which = "the only device" if count == 1 else f"each of the {count} devices"
            return RemoteError(
                f"{which} with key {key!r} at the tracker {self.address} is in use (waited "
                f"{wait:g} s): try again later"
            )
        known = f"it has {', '.join(fleet.keys)}" if fleet.keys else "it has none at all"
        return RemoteError(
            f"no device with key {key!r} at the tracker {self.address} ({known}): start "
            f"tvmquant serve --tracker {self.address} --key {key} on one"
        )
