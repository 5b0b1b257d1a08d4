"""Helpers of the suite: bounded waits, sockets over the loopback interface, threads whose failures are seen."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

import unio

Result = TypeVar("Result")

PATIENCE = 30.0
"""Seconds after which what a test waits for has failed to happen; long enough for a machine under load."""

BIG = 1 << 26
"""More bytes than a connection takes while its peer does not read."""


# Completions


def completions(port: unio.Port, count: int) -> list[unio.Completion]:
    """Exactly *count* completions, in their order."""
    found: list[unio.Completion] = []
    while len(found) < count:
        batch = port.wait(PATIENCE, limit=count - len(found))
        assert batch, f"{len(found)} of {count} completions came: {found}"
        found += batch
    return found


def completion(port: unio.Port) -> unio.Completion:
    """The next completion."""
    return completions(port, 1)[0]


def run(port: unio.Port, operation: unio.Operation, timeout: float | None = None) -> unio.Completion:
    """Submit an operation to a port that has no other work, and return its completion."""
    port.submit(operation, timeout)
    found = completion(port)
    assert found.operation is operation
    return found


def succeed(port: unio.Port, operation: unio.Operation) -> unio.Completion:
    """Like run, and nothing may have gone wrong."""
    found = run(port, operation)
    if found.error is not None:
        raise found.error
    return found


def assert_idle(port: unio.Port) -> None:
    """The port has nothing to deliver."""
    assert port.wait(0) == []


def assert_nothing_comes(port: unio.Port, seconds: float = 0.1) -> None:
    """For a while the port has nothing to deliver, and its wait is not disturbed."""
    start = time.monotonic()
    assert port.wait(seconds) == []
    assert time.monotonic() - start >= seconds


def assert_cancelled(found: unio.Completion) -> None:
    """It ended by a cancel or a close here."""
    assert type(found.error) is unio.Cancelled, found


# Sockets


def listener(backlog: int = 128) -> socket.socket:
    """A TCP socket that listens on the loopback interface."""
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection."""
    with listener() as listening:
        far = socket.create_connection(listening.getsockname(), PATIENCE)
        near, _ = listening.accept()
    near.settimeout(PATIENCE)
    for sock in near, far:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def local_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a local stream."""
    near, far = socket.socketpair()
    near.settimeout(PATIENCE)
    far.settimeout(PATIENCE)
    return near, far


def connect(listening: socket.socket) -> socket.socket:
    """A client of a listening socket."""
    return socket.create_connection(listening.getsockname(), PATIENCE)


def recv_exactly(sock: socket.socket, count: int) -> bytes:
    """That many bytes of a blocking socket."""
    received = bytearray()
    while len(received) < count:
        chunk = sock.recv(min(count - len(received), 1 << 20))
        assert chunk, f"the stream ended after {len(received)} of {count} bytes"
        received += chunk
    return bytes(received)


def recv_to_end(sock: socket.socket) -> bytes:
    """All bytes up to the end of the stream."""
    received = bytearray()
    while chunk := sock.recv(1 << 20):
        received += chunk
    return bytes(received)


def fill(sock: socket.socket) -> int:
    """Send until the connection takes nothing more; returns how many bytes it took.

    One refusal is not enough: over TCP the peer's side may still be making room, and says so late. It is full when it
    refuses again after a while in which nothing moved.
    """
    patience = sock.gettimeout()
    sent = refused = 0
    sock.setblocking(False)
    try:
        while refused < 2:
            try:
                sent += sock.send(bytes(1 << 16) if not refused else b"0")
                refused = 0
            except BlockingIOError:
                refused += 1
                select.select([], [sock], [], 0.1)
    finally:
        sock.settimeout(patience)
    return sent


def reset(sock: socket.socket) -> None:
    """Close a TCP socket so that its peer gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def full_listener(resources: contextlib.ExitStack) -> Any:
    """The address of a listener that lets nobody in any more, so that connecting to it pends."""
    listening = resources.enter_context(listener(0))
    for _ in range(4):
        client = resources.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(listening.getsockname())
    return listening.getsockname()


def reuse(number: int, resources: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """A pair of connected sockets, the first of which has this descriptor number."""
    near, far = socket.socketpair()
    if far.fileno() == number:  # the lowest free number is given first, so that one of them may have got it already
        near, far = far, near
    if near.fileno() != number:
        os.dup2(near.fileno(), number, inheritable=False)
        near.close()
        near = socket.socket(fileno=number)
    resources.enter_context(near)
    resources.enter_context(far)
    near.settimeout(PATIENCE)
    far.settimeout(PATIENCE)
    return near, far


# Operations

PENDING = ("accept", "connect", "poll", "process_exit", "recv", "recv_from", "recv_pipe", "send", "send_file", "timer")
"""The kinds of operations that may be in flight for long."""


def pending(kind: str, port: unio.Port, resources: contextlib.ExitStack, directory: Path) -> unio.Operation:
    """An operation that will not end by itself, not yet submitted."""
    if kind == "timer":
        return unio.Timer(3600)
    if kind == "process_exit":
        command = [sys.executable, "-S", "-E", "-c", "import sys; sys.stdin.read()"]
        return unio.ProcessExit(resources.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE)))
    if kind == "accept":
        return unio.Accept(port.associate(resources.enter_context(listener())))
    if kind == "connect":
        return unio.Connect(port.associate(resources.enter_context(socket.socket())), full_listener(resources))
    if kind == "recv_from":
        sock = resources.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        sock.bind(("127.0.0.1", 0))
        return unio.RecvFrom(port.associate(sock), bytearray(8))
    if kind == "recv_pipe":
        reader, writer = unio.pipe()
        resources.enter_context(writer)
        return unio.Recv(port.associate(resources.enter_context(reader)), bytearray(8))
    near, far = tcp_pair()
    resources.enter_context(far)
    handle = port.associate(resources.enter_context(near))
    if kind == "recv":
        return unio.Recv(handle, bytearray(8))
    if kind == "poll":
        return unio.Poll(handle, unio.Readiness.READABLE)
    if kind == "send":
        return unio.Send(handle, bytes(BIG))
    file = resources.enter_context(open(directory / "file", "w+b"))
    file.truncate(BIG)
    return unio.SendFile(handle, file, 0, BIG)


# Threads


class Background(threading.Thread, Generic[Result]):
    """A running thread whose result, or failure, is fetched."""

    def __init__(self, function: Callable[..., Result], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._arguments = arguments
        self._result: Result
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._function(*self._arguments)
        except BaseException as error:  # noqa: BLE001 - raised again where the result is fetched
            self._error = error

    def result(self) -> Result:
        """What the function returned; raises what it raised."""
        self.join(PATIENCE)
        assert not self.is_alive(), f"{self._function} did not end"
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._result


def in_threads(count: int, function: Callable[[int], Result]) -> list[Result]:
    """Run a function in several threads that start together; it gets the number of its thread."""
    together = threading.Barrier(count)

    def start(number: int) -> Result:
        together.wait(PATIENCE)
        return function(number)

    threads = [Background(start, number) for number in range(count)]
    return [thread.result() for thread in threads]


def inside_wait(thread: threading.Thread) -> None:
    """Return once the thread is within a call of Port.wait (or has ended), and about to block if it does not yet."""

    def waits() -> bool:
        frame = sys._current_frames().get(thread.ident or 0)
        while frame is not None:
            if frame.f_code.co_name == "wait" and isinstance(frame.f_locals.get("self"), unio.Port):
                return True
            frame = frame.f_back
        return not thread.is_alive()

    until(waits)


def until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not come true"
        time.sleep(0)


# What a process holds


def open_descriptors() -> list[int]:
    """The descriptors that are open in this process; none where the system does not say."""
    if not os.path.isdir("/dev/fd"):
        return []
    numbers = [int(name) for name in os.listdir("/dev/fd")]
    return [number for number in numbers if _is_open(number)]  # without the one that listed them


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def no_more_descriptors_than(before: Iterable[int]) -> None:
    """Fail if there are descriptors that were not there before; those of garbage don't count."""
    known = set(before)
    if set(open_descriptors()) - known:
        gc.collect()
    left = {number: _target(number) for number in set(open_descriptors()) - known}
    assert not left, f"descriptors left open: {left}"


def _target(number: int) -> str:
    try:
        return os.readlink(f"/dev/fd/{number}")
    except OSError as error:
        return str(error)
