"""``HOST:PORT``."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from tvmquant.errors import InputError


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes
    ----------
    host : str
        Name or number, without the brackets of an IPv6 number.
    port : int
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, value: str | Address, what: str = "address") -> Address:
        """Read ``HOST:PORT``.

        Raises
        ------
        InputError
            If that is not what ``value`` is.
        """
        if isinstance(value, Address):
            return value
        host, _, port = str(value).rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InputError(f"{what} {value!r}: write HOST:PORT, for example 192.168.0.7:9090")
        return cls(host, int(port))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
