"""``tvmquant serve | tracker``, and the options of commands that work on another machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from tvmquant.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from tvmquant.remote import RemoteModel
    from tvmquant.remote.address import Address
    from tvmquant.runtime import CompiledModel


def remote_options(several: bool = False) -> Callable[[Any], Any]:
    """``--rpc`` (repeatable if ``several``), ``--tracker``, ``--key`` and ``--timeout``."""
    again = " Repeatable." if several else ""
    options = (
        click.option(
            "--rpc", multiple=several, metavar="HOST:PORT", help=f"Device that serves.{again}"
        ),
        click.option("--tracker", metavar="HOST:PORT", help="Tracker that chooses a device."),
        click.option("--key", default="", help="Kind of device, as given to tvmquant serve."),
        click.option(
            "--timeout",
            default=60.0,
            show_default=True,
            type=click.FloatRange(0, min_open=True),
            help="Seconds that one answer of a device may take.",
        ),
    )

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def check_options(rpc: Any, tracker: str | None, key: str) -> bool:
    """Whether the options name another machine.

    Raises
    ------
    InputError
        If they contradict each other.
    """
    if rpc and tracker:
        raise InputError("--rpc and --tracker: give one")
    if tracker and not key:
        raise InputError(f"--tracker {tracker} needs --key: the kind of device, for example rpi4")
    if key and not (rpc or tracker):
        raise InputError(f"--key {key} needs --rpc or --tracker")
    return bool(rpc or tracker)


@contextmanager
def opened(
    folder: Path, rpc: str | None, tracker: str | None, key: str, timeout: float
) -> Iterator[CompiledModel | RemoteModel]:
    """The model in ``folder``, here or on the device that the options name."""
    import tvmquant

    if not check_options(rpc, tracker, key):
        yield tvmquant.load(folder)
        return
    from tvmquant.remote.model import RemoteModel
    from tvmquant.remote.session import connect
    from tvmquant.runtime.bundle import read_manifest

    read_manifest(folder)  # a damaged folder must not cost a session
    with RemoteModel.from_bundle(folder, connect(rpc, tracker, key, timeout)) as model:
        yield model


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="By default the first free from 9090.")
@click.option("--tracker", metavar="HOST:PORT", help="Tracker to register at, needs --key.")
@click.option("--key", default="", help="Kind of device, for example rpi4; clients must name it.")
def serve(host: str, port: int | None, tracker: str | None, key: str) -> None:
    """Let other machines run models on this one, over TVM's RPC, until Ctrl-C.

    Whoever reaches the port can run any code as this user: there is no password and no
    encryption. Only this machine can unless --host says otherwise.
    """
    # The runtime is enough, and loads in half the time.
    os.environ.setdefault("TVM_USE_RUNTIME_LIB", "1")
    from tvmquant.remote.address import Address
    from tvmquant.remote.device import describe
    from tvmquant.remote.server import Server

    at = Address.of(tracker, "--tracker") if tracker else None
    if at is not None and not key:
        raise InputError(f"--tracker {tracker} needs --key: the kind of device, for example rpi4")
    if any(c.isspace() or c == ":" for c in key):
        raise InputError(f"--key {key!r}: write it without spaces and colons")
    with _until_stopped(), _listen(host, port) as listener:
        address = Address(host, listener.getsockname()[1])
        _warn_when_open(address)
        if at is not None and address.is_local and not at.is_local:
            _say(
                f"warning: {address} is only reachable from this machine, the tracker {at} is "
                "another one: add --host with this machine's address"
            )
        _say(f"serving on {address}: {describe()}")
        Server(listener, key, at, _say).run()


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9190, show_default=True, type=click.IntRange(1, 65535))
def tracker(host: str, port: int) -> None:
    """Keep a list of devices that serve, and hand them out, until Ctrl-C.

    Devices register with tvmquant serve --tracker HOST:PORT --key KIND.
    """
    try:
        import tornado  # noqa: F401
    except ImportError:
        raise InputError(
            "the tracker needs tornado: python -m pip install 'tornado>=6.4,<7'"
        ) from None
    from tvm.rpc.tracker import _tracker_server, logger

    from tvmquant.remote.address import Address

    logger.setLevel("WARNING")
    with _until_stopped(), _listen(host, port) as listener:
        _warn_when_open(Address(host, port))
        _say(f"tracker on {Address(host, port)}")
        _tracker_server(listener, os.urandom(16).hex())


def show_fleet(tracker: str, as_json: bool) -> None:
    """Print the devices that are registered at a tracker."""
    from rich.table import Table

    from tvmquant.cli.display import output_console
    from tvmquant.remote.tracker import TrackerClient

    client = TrackerClient(tracker)
    fleet = client.fleet()
    if as_json:
        found = {
            key: {
                "devices": [str(address) for address in fleet.of(key)],
                "free": fleet.free.get(key, 0),
                "waiting": fleet.waiting.get(key, 0),
            }
            for key in fleet.keys
        }
        click.echo(json.dumps(found, indent=2))
        return
    table = Table(title=f"{len(fleet.boards)} device(s) at {client.address}")
    for header in ("key", "devices"):
        table.add_column(header, overflow="fold")
    for header in ("free", "waiting"):
        table.add_column(header, justify="right")
    for key in fleet.keys:
        addresses = ", ".join(str(address) for address in fleet.of(key))
        numbers = (fleet.free.get(key, 0), fleet.waiting.get(key, 0))
        table.add_row(key, addresses, *map(str, numbers))
    output_console().print(table)


def _listen(host: str, port: int | None) -> Any:
    from tvmquant.remote.server import listen

    try:
        return listen(host, port)
    except OSError as error:
        where = host if port is None else f"{host}:{port}"
        raise InputError(
            f"cannot listen on {where}: {error.strerror or error}; give another --host or --port"
        ) from None


def _warn_when_open(address: Address) -> None:
    if not address.is_local:
        _say(
            f"warning: {address} is open to the network: whoever reaches it can run any code here "
            "as this user, without a password and unencrypted; keep it behind a firewall"
        )


def _say(text: str) -> None:
    click.echo(text, err=text.startswith("warning"))
    sys.stdout.flush()


@contextmanager
def _until_stopped() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the body, and what it started."""
    import multiprocessing
    import signal

    def stop(*_signal: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        _say("stopped")
    finally:
        for child in multiprocessing.active_children():
            child.kill()
