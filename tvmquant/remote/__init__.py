"""Running and measuring on another machine, over TVM's RPC."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Imported on first use: the server on a small device needs none of the client's modules.
_HOME = {
    "Address": "tvmquant.remote.address",
    "Fleet": "tvmquant.remote.tracker",
    "RemoteModel": "tvmquant.remote.model",
    "Session": "tvmquant.remote.session",
}

if TYPE_CHECKING:
    from tvmquant.remote.address import Address
    from tvmquant.remote.model import RemoteModel
    from tvmquant.remote.session import Session
    from tvmquant.remote.tracker import Fleet

__all__ = ["Address", "Fleet", "RemoteModel", "Session"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tvmquant.remote' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
