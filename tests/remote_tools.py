"""Servers and trackers in processes of their own, on free ports, for the tests of remote work."""

import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

from tvmquant.remote.tracker import TrackerClient

# A machine under load starts Python and TVM slowly.
START_SECONDS = 300


class Process:
    """A command of ``tvmquant`` that says where it listens in its first line."""

    def __init__(self, *arguments, command=(sys.executable, "-m", "tvmquant"), env=None):
        self.popen = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | (env or {}),
            start_new_session=True,
        )
        self.lines = []
        self._grown = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.address = self.wait_for(r" on (\S+?:\d+)")[1]
        except BaseException:
            self.kill()
            raise

    def _read(self):
        for line in self.popen.stdout:
            with self._grown:
                self.lines.append(line.decode(errors="replace").rstrip())
                self._grown.notify_all()

    @property
    def output(self):
        return "\n".join(self.lines)

    def wait_for(self, pattern, seconds=START_SECONDS):
        """Wait until the output has a match."""
        end = time.monotonic() + seconds
        with self._grown:
            while not (found := re.search(pattern, self.output)):
                running = self.popen.poll() is None and time.monotonic() < end
                assert running, f"no {pattern!r} in:\n{self.output}"
                self._grown.wait(0.2)
        return found

    def signal(self, number):
        """To the process and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def kill(self):
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.popen.wait()


@contextmanager
def serving(*arguments, **options):
    """``tvmquant serve`` on a free port."""
    process = Process("serve", "--port", free_port(), *arguments, **options)
    try:
        yield process
    finally:
        process.kill()


@contextmanager
def tracking():
    """``tvmquant tracker`` on a free port."""
    process = Process("tracker", "--port", free_port())
    try:
        yield process
    finally:
        process.kill()


def wait_for_boards(tracker, key, count, seconds=START_SECONDS):
    """Until so many devices are free."""
    end = time.monotonic() + seconds
    while TrackerClient(tracker).fleet().free.get(key, 0) < count:
        assert time.monotonic() < end, f"fewer than {count} devices at {tracker}"
        time.sleep(0.1)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def pretender(answer, key="server:"):
    """A server that greets like TVM's and then calls ``answer(connection, request)`` for ever."""
    stop = threading.Event()

    def serve(listener):
        while not stop.is_set():
            if not select.select([listener], [], [], 0.1)[0]:
                continue
            link, _ = listener.accept()
            with link, suppress(OSError):
                link.settimeout(10)
                link.recv(4096)
                link.sendall(struct.pack("<ii", 0xFF271, len(key)) + key.encode())
                while request := link.recv(1 << 16):
                    answer(link, request)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()
