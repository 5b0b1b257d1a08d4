"""Helpers of the suite: bounded waits, sockets over the loopback interface, threads whose failures are seen."""

from __future__ import annotations

import contextlib
import functools
import io
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
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

import pytest
from patience import PATIENCE, happened, patience_left
from wine import has_row

import unio

Result = TypeVar("Result")

HOME = str(Path(unio.__file__).parent)
"""Where unio's own code is."""

MIB = 1 << 20

BIG = 1 << 26
"""More bytes than a connection takes while its peer does not read."""


def shortly(number: float | None) -> str:
    """A number as the name of a test: some have many digits."""
    return "None" if number is None else f"{number:.3g}" if number < sys.float_info.max else "huge"


# Completions


def batch(port: unio.Port, limit: int = 64, patience: float = PATIENCE) -> list[unio.Completion]:
    """What a wait returns that somebody has woken.

    One that nobody wakes still looks once more when its time is over, and would hide that a wake-up was lost. Where
    there is nothing even then, another thread may have had all that came.
    """
    since = time.monotonic()
    while True:
        end = time.monotonic() + patience
        if found := port.wait(patience, limit):
            assert time.monotonic() < end, f"nobody was woken for {found}"
            happened()
            return found
        assert patience_left(since, patience) > 0, "a packet was lost, or nobody was woken for it"


def completions(port: unio.Port, count: int, patience: float = PATIENCE) -> list[unio.Completion]:
    """Exactly *count* completions, in their order."""
    found: list[unio.Completion] = []
    while len(found) < count:
        found += batch(port, count - len(found), patience)
    return found


def completion(port: unio.Port, patience: float = PATIENCE) -> unio.Completion:
    """The next completion."""
    return completions(port, 1, patience)[0]


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


def datagram_socket() -> socket.socket:
    """A UDP socket with an address on the loopback interface."""
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(PATIENCE)
    return sock


def connect(listening: socket.socket) -> socket.socket:
    """A client of a listening socket."""
    return socket.create_connection(listening.getsockname(), PATIENCE)


def send_all(sock: socket.socket, data: bytes) -> None:
    """Send all of it."""
    patience = sock.gettimeout()
    if has_row("send-in-background"):
        sock.settimeout(None)  # with a time-out Python makes it a non-blocking one
    sock.sendall(data)
    sock.settimeout(patience)


def recv_exactly(sock: socket.socket, count: int) -> bytes:
    """That many bytes of a blocking socket."""
    received = bytearray()
    while len(received) < count:
        chunk = sock.recv(min(count - len(received), 1 << 20))
        assert chunk, f"the stream ended after {len(received)} of {count} bytes"
        received += chunk
        happened()
    return bytes(received)


def arrived(sock: socket.socket) -> None:
    """Return when there is something to receive, or the end of the stream."""
    assert select.select([sock], [], [], PATIENCE)[0]


def recv_to_end(sock: socket.socket) -> bytes:
    """All bytes up to the end of the stream."""
    received = bytearray()
    while chunk := sock.recv(1 << 20):
        received += chunk
        happened()
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
    keep = resources.enter_context
    if kind == "timer":
        return unio.Timer(3600)
    if kind == "process_exit":
        command = [sys.executable, "-S", "-E", "-c", "import sys; sys.stdin.read()"]
        return unio.ProcessExit(keep(subprocess.Popen(command, stdin=subprocess.PIPE)))
    made: dict[str, Callable[[], Iterable[Any]]] = {
        "accept": lambda: [listener()],
        "connect": lambda: [socket.socket()],
        "recv_from": lambda: [datagram_socket()],
        "recv_pipe": unio.pipe,
    }
    given, *_ = map(keep, made.get(kind, tcp_pair)())
    handle = port.associate(given)
    file = keep(unio.open(directory / "file", "w+b"))
    file.truncate(BIG)
    makers: dict[str, Callable[[], unio.Operation]] = {
        "accept": lambda: unio.Accept(handle),
        "connect": lambda: unio.Connect(handle, full_listener(resources)),
        "poll": lambda: unio.Poll(handle, unio.Readiness.READABLE),
        "recv": lambda: unio.Recv(handle, bytearray(8)),
        "recv_from": lambda: unio.RecvFrom(handle, bytearray(8)),
        "recv_pipe": lambda: unio.Recv(handle, bytearray(8)),
        "send": lambda: unio.Send(handle, bytes(BIG)),
        "send_file": lambda: unio.SendFile(handle, file, 0, BIG),
    }
    return makers[kind]()


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
        since = time.monotonic()
        while self.is_alive() and (left := patience_left(since)) > 0:
            self.join(left)
        assert not self.is_alive(), f"{self._function} did not end"
        happened()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._result


class Stepped(Background[Result]):
    """A thread that stops before the nth line of unio's own code that it comes to, until it is let go.

    With every n in turn another thread can do something between any two lines of the first one.
    """

    def __init__(self, line: int, function: Callable[..., Result], *arguments: Any) -> None:
        self._lines = line
        self._stopped = threading.Event()
        self._go = threading.Event()
        super().__init__(function, *arguments)

    def run(self) -> None:
        sys.settrace(self._trace)
        try:
            super().run()
        finally:
            sys.settrace(None)
            self._stopped.set()

    def _trace(self, frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        if event == "line":
            self._lines -= 1
            if not self._lines:
                self._stopped.set()
                self._go.wait(PATIENCE)
        return self._trace

    def reached(self) -> bool:
        """Whether it stopped; not, when it has ended or fallen asleep before it came to that line."""
        before = None
        while before != self._lines and not self._stopped.is_set():
            before = self._lines
            self._stopped.wait(0.1)
        return self._lines <= 0

    def go(self) -> None:
        """Let it go on."""
        self._go.set()


def in_threads(count: int, function: Callable[[int], Result]) -> list[Result]:
    """Run a function in several threads that start together; it gets the number of its thread."""
    together = threading.Barrier(count)

    def start(number: int) -> Result:
        together.wait(PATIENCE)
        return function(number)

    threads = [Background(start, number) for number in range(count)]
    return [thread.result() for thread in threads]


def running(port: unio.Port, count: int) -> list[Background[None]]:
    """So many threads that are all in Port.run."""
    there = threading.Event()
    together = threading.Barrier(count, there.set)

    def arrive(_: unio.Completion) -> None:
        with port.blocking():
            together.wait(PATIENCE)

    threads = [Background(port.run) for _ in range(count)]
    for _ in threads:
        port.post(arrive)
    assert there.wait(PATIENCE)
    return threads


def is_inside_wait(thread: threading.Thread) -> bool:
    """Whether a thread is within Port.wait, which need have no frame: it may be C."""
    return thread.ident in _waiting


def inside_wait(thread: threading.Thread) -> None:
    """Return once the thread is within a call of Port.wait (or has ended), and about to block if it does not yet."""
    until(lambda: is_inside_wait(thread) or not thread.is_alive())


_waiting: list[int] = []
"""The threads that are within a wait."""


@contextlib.contextmanager
def noted_as_waiting() -> Iterator[None]:
    """Let the calling thread count as one within Port.wait."""
    _waiting.append(threading.get_ident())
    try:
        yield
    finally:
        _waiting.remove(threading.get_ident())


def bare_wait(port: unio.Port) -> Callable[..., list[unio.Completion]]:
    """Port.wait without what notes who waits: for a caller that no step of Python's may come behind."""
    noted: Any = type(port).wait
    return functools.partial(getattr(noted, "__wrapped__", noted), port)


def _note_who_waits(port_type: type[unio.Port]) -> None:
    wait: Callable[..., list[unio.Completion]] = port_type.wait

    @functools.wraps(wait)
    def noted(*arguments: Any, **named: Any) -> list[unio.Completion]:
        with noted_as_waiting():
            return wait(*arguments, **named)

    port_type.wait = noted  # type: ignore[method-assign]


def note_who_waits() -> None:
    """Have :func:`inside_wait` know, from now on, which threads are within a Port.wait."""
    for candidate in unio.backends.candidates():
        if candidate.available:
            _note_who_waits(unio.backends.load(candidate.name))


def _stat(thread: threading.Thread, name: str) -> str:
    """What Linux says of a thread in one of its files; nothing, when it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/self/task/{thread.native_id}/{name}").read_text()
    return ""


def times_slept(thread: threading.Thread) -> int:
    """How often a thread has gone to sleep so far; Linux counts it."""
    found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", _stat(thread, "status"), re.MULTILINE)
    return int(found[1]) if found else -1


def asleep(thread: threading.Thread) -> None:
    """Return when the thread has been within a Port.wait for a while, so that only a wake-up gets it out again.

    A port may look after its handles at the beginning of a wait; what it finds then is no sign of a wake-up. On Linux
    the while counts from when it fell asleep, which on a machine under load is later than when it came to the wait.
    """
    inside_wait(thread)
    if sys.platform != "linux":
        time.sleep(0.15)
        return
    before, since = -1, time.monotonic()

    def sleeps_on() -> bool:
        nonlocal before, since
        time.sleep(0.01)
        slept = times_slept(thread)
        if slept != before or _stat(thread, "stat").rpartition(")")[2].split()[:1] == ["R"]:
            before, since = slept, time.monotonic()
        return time.monotonic() - since >= 0.15

    until(sleeps_on)


@contextlib.contextmanager
def restless() -> Iterator[None]:
    """Threads take turns as often as they can, so that they meet at every point of what they do together."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds."""
    since = time.monotonic()
    while not condition():
        assert patience_left(since) > 0, f"{condition} did not come true"
        time.sleep(0)
    happened()


class Hook:
    """What threading.excepthook was called with; the fixture `hook` has it called."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def __call__(self, arguments: threading.ExceptHookArgs) -> None:
        assert arguments.exc_value is not None
        assert arguments.thread is threading.current_thread()
        self.errors.append(arguments.exc_value)


# Signals


needs_interval_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no setitimer")


@contextlib.contextmanager
def signal_handler(number: int, handler: Callable[..., None]) -> Iterator[None]:
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)


@contextlib.contextmanager
def interval_timer(seconds: float, function: Callable[[], None]) -> Iterator[None]:
    """Signals at an interval; the function runs in the handler, in the main thread."""
    with signal_handler(signal.SIGALRM, lambda *_: function()):
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


# Processes


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def in_child(function: Callable[[], object]) -> None:
    """Run the function in a forked child, which ends without cleaning up; its failure is the caller's."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where there are threads: that is the test
        pid = os.fork()
    if not pid:
        try:
            function()
            os.write(writer, b"done")
        except BaseException as error:  # noqa: BLE001 - it is to be told to the parent, whatever it is
            os.write(writer, repr(error).encode()[:4000])
        finally:
            os._exit(0)
    os.close(writer)
    with io.FileIO(reader) as said:
        watch = Background(said.read)
        try:
            assert watch.result() == b"done"
        finally:
            if watch.is_alive():
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
