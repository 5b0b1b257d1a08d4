"""What a step of the scenario is played with: a port, materials, and the trace."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from patience import PATIENCE

import unio

if TYPE_CHECKING:
    from collections.abc import Callable


MORE_THAN_FITS = 1 << 26
"""More bytes than a connection takes while its peer does not read."""


class Scene:
    """What one step is played with: a port of its own, and what it writes down."""

    def __init__(self, backend: str | None, name: str, resources: contextlib.ExitStack) -> None:
        self.name = name
        self.resources = resources
        self.port = resources.enter_context(unio.Port(backend=backend))
        self.trace: list[str] = []

    # Materials

    def listener(self) -> socket.socket:
        listener: socket.socket = self.resources.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        return listener

    def pair(self, *, skip: bool = False) -> tuple[unio.Handle, socket.socket]:
        """A handle called near and, blocking and with a time-out, its peer."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            far = self.resources.enter_context(socket.create_connection(listener.getsockname(), PATIENCE))
            near = self.resources.enter_context(listener.accept()[0])
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.port.associate(near, "near", skip_on_success=skip), far

    def datagram_sockets(self) -> tuple[unio.Handle, socket.socket]:
        near, far = (self.resources.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2))
        for sock in near, far:
            sock.bind(("127.0.0.1", 0))
        far.settimeout(PATIENCE)
        return self.port.associate(near, "near"), far

    def file(self, content: bytes = b"") -> unio.Handle:
        return self.port.associate(self.opened(content), "file")

    def opened(self, content: bytes = b"") -> object:
        directory = self.resources.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        path = Path(directory) / "file"
        path.write_bytes(content)
        return self.resources.enter_context(unio.open(path, "rb+"))

    # What happens

    def submit(self, operation: unio.Operation, timeout: float | None = None) -> None:
        if self.port.submit(operation, timeout):
            self.write(operation, "skipped", operation.transferred, None)

    def pend(self, *operations: unio.Operation, timeout: float | None = None) -> None:
        """Submit what can't end yet, and see that it does not."""
        for operation in operations:
            self.submit(operation, timeout)
        self.nothing()

    def nothing(self) -> None:
        found = self.port.wait(0)
        self.trace += [f"{self.name:28} unexpected: {each!r}" for each in found]

    def wait(self, limit: int = 64) -> list[unio.Completion]:
        """What a wait returns that somebody has woken; nothing where only its time-out has brought it."""
        deadline = time.monotonic() + PATIENCE
        found = self.port.wait(PATIENCE, limit)
        return found if time.monotonic() < deadline else []

    def end(self, count: int = 1) -> list[unio.Completion]:
        """Wait for completions and write them down."""
        found: list[unio.Completion] = []
        while len(found) < count and (some := self.wait(count - len(found))):
            found += some
        for each in sorted(found, key=lambda each: str(each.key)):  # stable, so that each handle keeps its order
            self.write(each.operation, str(each.key), each.transferred, each.error)
        if len(found) < count:
            self.note(f"{count - len(found)} completions did not come")
        self.nothing()
        return found

    def run(self, operation: unio.Operation, timeout: float | None = None) -> unio.Completion:
        self.submit(operation, timeout)
        found = self.end()
        return found[0] if found else unio.Completion(None, operation, 0, None)

    def write(self, operation: unio.Operation | None, where: str, transferred: int, error: OSError | None) -> None:
        what = operation.name if isinstance(operation, unio.Operation) else "post"
        ended = (
            "ok" if error is None else f"{type(error).__name__} {errno.errorcode.get(error.errno or 0, error.errno)}"
        )
        ended = ended.replace("WSAE", "E")  # Windows' Python has two names for some numbers
        self.trace.append(f"{self.name:28} {where:9} {what:12} {transferred:9} {ended}")

    def note(self, text: object) -> None:
        self.trace.append(f"{self.name:28} : {text}")


def reset(sock: socket.socket) -> None:
    """Close a socket so that its peer gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def exactly(sock: socket.socket, count: int) -> bytes:
    """That many bytes, or those up to the end of the stream."""
    data = bytearray()
    while len(data) < count and (chunk := sock.recv(count - len(data))):
        data += chunk
    return bytes(data)


class Steps(dict[str, "Callable[[Scene], None]"]):
    """The steps of one module, by name, in their order."""

    def step(self, function: Callable[[Scene], None]) -> Callable[[Scene], None]:
        """Add a step; its name is the function's."""
        self[function.__name__.replace("_", "-")] = function
        return function
