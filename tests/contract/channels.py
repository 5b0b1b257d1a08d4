"""Byte streams for the tests of operations: every kind there is, one end for the port and one for the peer.

The peer's end is driven by plain blocking calls of the test itself, so that what the port sees is what the test did and
nothing else.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import support
from patience import PROGRAM, happened, patience_left
from platforms import WINDOWS

import unio

SOCKETS = ["tcp", "tcp6"] if WINDOWS else ["tcp", "tcp6", "local"]
"""TCP over IPv4 and IPv6, and AF_UNIX."""

PIPES = ["pipe"] if WINDOWS else ["pipe", "fifo"]
"""What unio.pipe makes, and a named FIFO."""

TRANSPORTS = SOCKETS + PIPES

NEAR_BY = "tcp" if WINDOWS else "local"
"""The sockets over which bytes arrive at once."""

POLLABLE = SOCKETS if WINDOWS else TRANSPORTS
"""Those that have readiness."""

ROOM = 128 * 1024
"""What is asked for as the size of a socket's buffer, in bytes; the system may make it a few times as large."""

every_stream = pytest.mark.parametrize("transport", TRANSPORTS)
every_socket = pytest.mark.parametrize("transport", SOCKETS)
every_pipe = pytest.mark.parametrize("transport", PIPES)
every_pollable = pytest.mark.parametrize("transport", POLLABLE)

PIPE_BUFFER = 65536
"""How many bytes a pipe of Windows' takes before its writes wait; it has no non-blocking mode to find out with."""

End = socket.socket | io.FileIO


class Far:
    """The peer's end of a stream."""

    def __init__(self, end: End) -> None:
        self.end = end
        self._blocking = True

    def send(self, data: bytes) -> None:
        """Send all of it."""
        if isinstance(self.end, socket.socket):
            support.send_all(self.end, data)
            return
        rest = memoryview(data)
        while rest:
            rest = rest[self.end.write(rest) :]

    def recv(self, most: int = 1 << 16) -> bytes | None:
        """What there is; b"" at the end of the stream, None if there is nothing now and the end does not block."""
        if not isinstance(self.end, socket.socket):
            return _read(self.end, most, blocking=self._blocking) if WINDOWS else self.end.read(most)
        try:
            return self.end.recv(most)
        except BlockingIOError:
            return None

    def recv_to_end(self) -> bytes:
        received = bytearray()
        while chunk := self.recv():
            received += chunk
        return bytes(received)

    def set_blocking(self, *, blocking: bool) -> None:
        self._blocking = blocking
        if isinstance(self.end, socket.socket):
            self.end.settimeout(support.PATIENCE if blocking else 0)
        elif not WINDOWS:
            os.set_blocking(self.end.fileno(), blocking)

    def close(self) -> None:
        """End the stream."""
        self.end.close()

    def reset(self) -> None:
        """Close a TCP socket so that the port's side gets a reset."""
        assert isinstance(self.end, socket.socket)
        support.reset(self.end)


def incoming(resources: contextlib.ExitStack, transport: str) -> tuple[End, Far]:
    """A stream to receive from: the port's end and the peer's."""
    if transport in SOCKETS:
        return _sockets(resources, transport)
    reader, writer = _pipe(resources, transport)
    return reader, Far(writer)


def outgoing(resources: contextlib.ExitStack, transport: str) -> tuple[End, Far]:
    """A stream to send to: the port's end and the peer's."""
    if transport in SOCKETS:
        return _sockets(resources, transport)
    reader, writer = _pipe(resources, transport)
    return writer, Far(reader)


def listener(resources: contextlib.ExitStack, transport: str, backlog: int = 128) -> socket.socket:
    """A listening socket of that transport."""
    if transport == "tcp":
        return resources.enter_context(support.listener(backlog))
    if transport == "tcp6":
        sock = resources.enter_context(socket.socket(socket.AF_INET6))
        sock.bind(("::1", 0))
    else:
        sock = resources.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind(path(resources, "listener"))
    sock.listen(backlog)
    return sock


def family_of(transport: str) -> int:
    """The address family of a socket of that transport."""
    return {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6}.get(transport) or socket.AF_UNIX


def client(resources: contextlib.ExitStack, transport: str) -> socket.socket:
    """A socket that is not connected yet."""
    sock = resources.enter_context(socket.socket(family_of(transport)))
    sock.settimeout(support.PATIENCE)
    return sock


def path(resources: contextlib.ExitStack, name: str) -> str:
    """A path that is short enough for an AF_UNIX address."""
    return str(Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="unio-"))) / name)


def _sockets(resources: contextlib.ExitStack, transport: str) -> tuple[socket.socket, Far]:
    if transport == "tcp6":
        listening = listener(resources, transport)
        far = client(resources, transport)
        far.connect(listening.getsockname())
        near, _ = listening.accept()
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        near, far = support.tcp_pair() if transport == "tcp" else support.local_pair()
    # Whatever the machine's settings, the system shall not keep so much that a large send completes without a reader.
    for sock in (near, far):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
    return resources.enter_context(near), Far(resources.enter_context(far))


def _pipe(resources: contextlib.ExitStack, transport: str) -> tuple[io.FileIO, io.FileIO]:
    if transport == "pipe":
        reader, writer = unio.pipe()
    else:
        fifo = path(resources, "fifo")
        os.mkfifo(fifo)
        # Opened for reading without blocking first, because opening either end otherwise waits for the other one.
        reader = io.FileIO(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "r")
        writer = unio.open(fifo, "wb")
        os.set_blocking(reader.fileno(), True)
    return resources.enter_context(reader), resources.enter_context(writer)


class Drained:
    """What a slow reader saw while the port worked."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.completions: list[unio.Completion] = []
        self.read_before: list[int] = []  # for each completion, how many bytes the reader had taken when it came


def drain(port: unio.Port, far: Far, completions: int, *, most: int = 1 << 16) -> Drained:
    """Read the peer's end bit by bit, letting the port work in between, up to that many completions."""
    return _drain(port, far, lambda drained: len(drained.completions) >= completions, most)


def read(port: unio.Port, far: Far, count: int) -> int:
    """Read at least that many bytes of the peer's end, letting the port work in between; nothing may complete."""
    drained = _drain(port, far, lambda drained: len(drained.data) >= count, 1 << 16)
    assert drained.completions == []
    return len(drained.data)


def _drain(port: unio.Port, far: Far, done: Callable[[Drained], bool], most: int) -> Drained:
    drained = Drained()
    far.set_blocking(blocking=False)
    since = time.monotonic()
    nothing = False
    while not done(drained):
        assert patience_left(since) > 0, f"{drained.completions} came while {len(drained.data)} bytes were read"
        for completion in port.wait(0.001 if nothing else 0):
            drained.completions.append(completion)
            drained.read_before.append(len(drained.data))
        if chunk := far.recv(most):
            happened()
        nothing = not chunk
        drained.data += chunk or b""
    far.set_blocking(blocking=True)
    return drained


def take(far: Far, count: int) -> bytes:
    """That many bytes of the peer's end, which are there or on their way."""
    taken = bytearray()
    while len(taken) < count:
        chunk = far.recv(count - len(taken))
        assert chunk, f"the stream ended after {len(taken)} of {count} bytes"
        taken += chunk
    return bytes(taken)


def _read(end: io.FileIO, most: int, *, blocking: bool) -> bytes | None:
    """Read a pipe of Windows', which has no non-blocking mode: look whether there is something."""
    import _winapi  # noqa: PLC0415 - Windows only
    import msvcrt  # noqa: PLC0415 - Windows only

    try:
        there, _ = _winapi.PeekNamedPipe(msvcrt.get_osfhandle(end.fileno()))
    except BrokenPipeError:
        return b""
    return end.read(min(most, there) if there else most) if there or blocking else None


def fill_descriptor(end: End) -> int:
    """Write zeros behind the port's back until nothing more is taken; returns how many."""
    if isinstance(end, socket.socket):
        return support.fill(end)
    if WINDOWS:
        return end.write(bytes(PIPE_BUFFER))
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += os.write(end.fileno(), bytes(4096))
    return filled


def system_number(file: io.FileIO) -> int:
    """The operating system's own number of an open file."""
    if WINDOWS:
        import msvcrt  # noqa: PLC0415 - Windows only

        return msvcrt.get_osfhandle(file.fileno())
    return file.fileno()


def pattern(size: int) -> bytes:
    """Bytes in which a lost, doubled or moved piece shows."""
    return random.Random(size).randbytes(size)


def receive_all(port: unio.Port, handle: unio.Handle, size: int = 1 << 16) -> bytes:
    """Receive up to the end of the stream."""
    received = bytearray()
    buffer = bytearray(size)
    operation = unio.Recv(handle, buffer)
    while count := support.succeed(port, operation).transferred:
        received += buffer[:count]
    return bytes(received)


def receive_exactly(port: unio.Port, handle: unio.Handle, count: int) -> bytes:
    """Receive that many bytes."""
    received = bytearray()
    while len(received) < count:
        buffer = bytearray(count - len(received))
        got = support.succeed(port, unio.Recv(handle, buffer)).transferred
        assert got, f"the stream ended after {len(received)} of {count} bytes"
        received += buffer[:got]
    return bytes(received)


def assert_sleeps(port: unio.Port, seconds: float = 0.2) -> None:
    """Nothing comes, and the wait for it uses next to no processor time: it sleeps, and does not spin."""
    before = time.thread_time()
    assert port.wait(seconds) == []
    assert time.thread_time() - before < seconds / 10


def ended_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, in which a warning is an error, until it has ended."""
    source = str(Path(unio.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROGRAM, check=False)


def run_script(script: str, *arguments: str) -> str:
    """Run such a program and return what it printed; it must end well."""
    ended = ended_script(script, *arguments)
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr, ended.stderr
    return ended.stdout


def run_program(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, with all of Python's own checks; it must end well."""
    command = [sys.executable, "-X", "dev", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done
