"""How the tests run the command: as a process of its own, over real sockets, and never without a bound."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

from patience import PATIENCE, PROGRAM
from support import batch

import unio

if TYPE_CHECKING:
    from types import TracebackType

UNPRIVILEGED = """
import os
if os.geteuid() == 0:
    import ctypes
    assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
"""
"""Python with which a process gives up what root may do besides others; for Linux."""


def command(*arguments: str, before: str = "") -> list[str]:
    """What runs the command; *before* is Python that its process runs first."""
    launch = ["-c", f"{before}\nimport runpy; runpy.run_module('unio', run_name='__main__', alter_sys=True)"]
    return [sys.executable, *(launch if before else ["-m", "unio"]), *arguments]


def environment(**changes: str) -> dict[str, str]:
    """The variables of a process that finds the unio that is under test."""
    source = str(Path(unio.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [changes.pop("PYTHONPATH", ""), source, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **changes}


def run(*arguments: str, before: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; the keyword arguments are environment variables."""
    return subprocess.run(
        command(*arguments, before=before),
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=PROGRAM,
        check=False,
    )


FAULTY = """
from unio.cli.connection import Connection
hear = Connection.hear
async def faulty(connection, reading):
    connection.recv is None or 1 / (connection.recv.transferred - 13)
    return await hear(connection, reading)
Connection.hear = faulty
"""
"""Python with which an echo meets with a fault when it has sent 13 bytes back."""


def step(port: unio.Port) -> unio.Completion:
    """Have a port that nobody runs do one thing: what it did."""
    [completion] = batch(port, limit=1)
    (completion.key if completion.operation is None else completion.operation.state)(completion)
    return completion


class DidNotStart(AssertionError):
    """The server ended before it said where it listens, with that status and those words."""

    def __init__(self, status: int, stderr: str) -> None:
        super().__init__(f"the server ended with {status} and said {stderr}")
        self.status = status
        self.stderr = stderr


class Served:
    """A server in a process of its own, listening on a free port of *host*.

    *before* is Python that the process runs first. A watchdog kills the process after so many *seconds*, so that
    waiting for what it says is bounded. Raises DidNotStart.
    """

    def __init__(self, *arguments: str, host: str = "127.0.0.1", before: str = "", seconds: float = PROGRAM) -> None:
        self.process = subprocess.Popen(
            command("serve", *arguments, "--host", host, "--port", "0", before=before),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stderr = ""
        self._watchdog = threading.Timer(seconds, self.process.kill)
        self._watchdog.start()
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        if not self.first_line:
            status = self.exit_status()
            raise DidNotStart(status, self.stderr)
        found = re.fullmatch(r"listening on (\S+):(\d+) \((\w+)\)\n", self.first_line)
        if found is None:
            self.kill()
            raise AssertionError(f"the server said {self.first_line!r} and {self.stderr}")
        self.host, self.port, self.backend = found[1], int(found[2]), found[3]

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """A new client; its *receive_buffer* bounds, roughly, what it takes without reading."""
        client = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(PATIENCE)
        try:
            client.connect((self.host.strip("[]"), self.port))
        except OSError:
            client.close()
            raise
        return client

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends_in_order(self) -> None:
        """Tell it to end, which it does without complaint. Windows can tell it only through a console: it is killed."""
        if sys.platform == "win32":
            self.kill()
            return
        self.signal(signal.SIGTERM)
        assert self.exit_status() == 0
        assert self.stderr == ""

    def has_stopped_accepting(self) -> bool:
        """Wait until new clients are refused."""
        while True:
            try:
                self.connect().close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:  # it was waiting to be accepted when the listener was closed
                continue

    def exit_status(self) -> int:
        """Wait for the server to end of itself."""
        _, self.stderr = self.process.communicate(timeout=PATIENCE)
        self._watchdog.cancel()
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.exit_status()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.kill()


def received(client: socket.socket, size: int) -> bytes:
    """Exactly *size* bytes, or fewer if the stream ends before."""
    data = bytearray()
    while len(data) < size and (part := client.recv(min(size - len(data), 1 << 16))):
        data += part
    return bytes(data)


def everything(client: socket.socket) -> bytes:
    """All bytes up to the end of the stream."""
    data = bytearray()
    while part := client.recv(1 << 16):
        data += part
    return bytes(data)
