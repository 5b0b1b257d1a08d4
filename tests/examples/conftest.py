"""Run an example as a user does: in a process of its own, on every backend that is available here."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import support
from patience import PROGRAM

import unio

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGE = Path(unio.__file__).parents[1]


class Example:
    """A running example. If it hangs it is killed, so that whatever waits for it ends."""

    def __init__(self, backend: str, name: str, *arguments: object) -> None:
        self.backend = backend
        paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), unio.backends.VARIABLE: backend},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._watchdog = threading.Timer(PROGRAM, self.process.kill)
        self._watchdog.start()

    @functools.cached_property
    def address(self) -> tuple[str, int]:
        """Where the server listens, as its first line of output says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(rf"listening on (127\.0\.0\.1):(\d+) \({self.backend}\)\n", line)
        assert found, f"the first line is {line!r}"
        return found[1], int(found[2])

    def connect(self) -> socket.socket:
        """A client of the server, the caller's to close."""
        client = socket.create_connection(self.address, support.PATIENCE)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """Wait until it has ended: its exit status, what remained of its output, and its errors."""
        output, errors = self.process.communicate()
        return self.process.returncode, output, errors

    def peak_memory(self) -> int:
        """The most memory that it has had so far, in bytes; for Linux."""
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024

    def discard(self) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def run(backend: str) -> Iterator[Callable[..., Example]]:
    """Starts an example with its arguments."""
    with contextlib.ExitStack() as stack:

        def start(name: str, *arguments: object) -> Example:
            example = Example(backend, name, *arguments)
            stack.callback(example.discard)
            return example

        yield start


@pytest.fixture
def serve(run: Callable[..., Example]) -> Iterator[Callable[..., Example]]:
    """Starts an example that is a server; at the end of the test Ctrl-C must end it cleanly."""
    servers: list[Example] = []

    def start(name: str, *arguments: object) -> Example:
        server = run(name, *arguments)
        assert server.address
        servers.append(server)
        return server

    yield start
    if sys.platform != "win32":  # where Ctrl-C goes to all processes of a console, the tests among them
        for server in servers:
            server.interrupt()
            assert server.end() == (0, "", "")
